//! The simulated org over real sockets: what it takes, what it refuses and how, and its scripted faults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by its panic")]
#![expect(clippy::too_many_lines, reason = "a table of every refusal")]

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sim::{ExtensionForm, Fault, Org, PasswordForm, RetryAfterForm, Settings, Stats, UserView};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const ENVELOPE: &str = "urn:ietf:params:scim:schemas:extension:genesys:2.0:User";
const URN: &str = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User";
/// Stands for the SHA-256 of some password.
const HASH: &str = "a0d8f2a1a2a9e7a07b7f3f1a6fe7b3a0d52bd2a6d8a9e6c8a2a9f5f0f0f0f0f0";

/// An org that serves on a port of its own until it is dropped.
struct Served {
    org: Org,
    url: String,
    client: Client,
    shutdown: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// One that follows no redirect: what the org answers is what counts.
fn unredirected() -> Client {
    Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

impl Served {
    async fn with(settings: Settings) -> Self {
        let org = Org::new(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let (org, shutdown) = (org.clone(), shutdown.clone());
            async move { org.serve(listener, shutdown).await }
        });
        Self { org, url, client: unredirected(), shutdown, serving }
    }

    async fn fresh() -> Self {
        Self::with(Settings::default()).await
    }

    fn fault(&self, text: &str) {
        self.org.add_fault(text.parse::<Fault>().unwrap());
    }

    fn grant(&self) -> RequestBuilder {
        self.client
            .post(format!("{}/oauth/token", self.url))
            .basic_auth("demo", Some("demo-secret"))
            .form(&[("grant_type", "client_credentials")])
    }

    async fn token(&self) -> String {
        let answer: Value = self.grant().send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    fn patch(&self, token: &str, user: &str, body: &Value) -> RequestBuilder {
        self.client
            .patch(format!("{}/api/v2/scim/v2/Users/{user}", self.url))
            .bearer_auth(token)
            .header("content-type", "application/scim+json")
            .header("accept", "application/scim+json")
            .body(body.to_string())
    }

    async fn reset(&self, token: &str, user: &str) -> Response {
        self.patch(token, user, &reset_body()).send().await.unwrap()
    }

    fn get(&self, token: &str, path: &str) -> RequestBuilder {
        self.client.get(format!("{}/api/v2/scim/v2/{path}", self.url)).bearer_auth(token)
    }

    fn sets(&self, user: &str) -> u64 {
        self.org.user(user).unwrap().password_sets
    }
}

fn body(operations: Value) -> Value {
    json!({"schemas": [PATCH_OP], "Operations": operations})
}

fn reset_body() -> Value {
    body(json!([{"op": "replace", "path": "password", "value": HASH}]))
}

fn plaintext() -> Settings {
    Settings { password: PasswordForm::Plaintext, extensions: ExtensionForm::Urn, ..Settings::default() }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Asks until the answer is yes; the clock is only there so that a failure ends.
async fn eventually<F: Future<Output = bool>>(what: &str, mut asks: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !asks().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- tokens

#[tokio::test]
async fn a_token_is_granted_with_the_grant_in_the_form_or_in_the_query() {
    let settings = Settings { scope: Some("scim:users:write".to_owned()), ..Settings::default() };
    let served = Served::with(settings).await;
    let in_query = served
        .client
        .post(format!("{}/oauth/token?grant_type=client_credentials", served.url))
        .basic_auth("demo", Some("demo-secret"));
    for request in [served.grant(), in_query] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["token_type"], "bearer");
        assert_eq!(answer["expires_in"], 86_400);
        assert_eq!(answer["scope"], "scim:users:write");
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!(served.reset(token, "u1").await.status(), 200);
    }
    assert_eq!(served.org.stats().tokens_issued, 2);
}

#[tokio::test]
async fn a_token_request_is_refused_for_its_client_or_its_grant() {
    let served = Served::fresh().await;
    let url = format!("{}/oauth/token", served.url);
    let post = || served.client.post(&url);
    let right = || post().basic_auth("demo", Some("demo-secret"));
    let grant = [("grant_type", "client_credentials")];
    let twice = [grant[0], grant[0]];
    let refused = [
        (post().basic_auth("demo", Some("wrong")).form(&grant), 401, "invalid_client"),
        (post().basic_auth("other", Some("demo-secret")).form(&grant), 401, "invalid_client"),
        (post().form(&grant), 401, "invalid_client"),
        (post().header("authorization", "Basic %%%").form(&grant), 401, "invalid_client"),
        (right().form(&[("grant_type", "password")]), 400, "unsupported_grant_type"),
        (right().form(&[("other", "x")]), 400, "invalid_request"),
        (right().form(&twice), 400, "invalid_request"),
        (right().json(&json!({"grant_type": "client_credentials"})), 400, "invalid_request"),
        (right(), 400, "invalid_request"),
    ];
    let count = refused.len();
    for (request, status, error) in refused {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{error}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"], error);
        assert_eq!(answer["description"], answer["error_description"]);
    }
    let stats = served.org.stats();
    assert_eq!((stats.token_requests, stats.tokens_issued), (count as u64, 0));
}

#[tokio::test]
async fn a_token_expires_and_can_be_revoked() {
    let settings = Settings { token_ttl: Duration::from_secs(1), quota: 0, ..Settings::default() };
    let served = Served::with(settings).await;
    let token = served.token().await;
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
    eventually("the token's end", || async { served.reset(&token, "u1").await.status() == 401 }).await;

    let token = served.token().await;
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
    served.org.revoke_tokens();
    let response = served.reset(&token, "u1").await;
    assert_eq!(response.status(), 401);
    let correlation = header(&response, "inin-correlation-id").unwrap().to_owned();
    let answer: Value = response.json().await.unwrap();
    let wanted = json!({"message": answer["message"], "code": "bad.credentials", "status": 401,
        "contextId": correlation, "details": [], "errors": []});
    assert_eq!(answer, wanted);
}

// ---- what a PATCH may be

#[tokio::test]
async fn a_patch_is_refused_with_the_scim_type_that_says_why() {
    let served = Served::with(Settings { quota: 0, ..Settings::default() }).await;
    let token = served.token().await;
    let title = json!({"op": "replace", "path": "title", "value": "Agent"});
    let languages = json!({"op": "replace", "path": "genesys:routingLanguages", "value": []});
    let with = |extensions: Value| json!({"schemas": [PATCH_OP], "Operations": [title], "Extensions": extensions});
    let op = |operation: Value| body(json!([operation]));
    let password = |value: Value| op(json!({"op": "replace", "path": "password", "value": value}));
    let table = [
        (json!([]), "invalidSyntax"),
        (json!({"Operations": [title]}), "invalidSyntax"),
        (json!({"schemas": PATCH_OP, "Operations": [title]}), "invalidSyntax"),
        (json!({"schemas": ["urn:other"], "Operations": [title]}), "invalidSyntax"),
        (json!({"schemas": [PATCH_OP, PATCH_OP], "Operations": [title]}), "invalidSyntax"),
        (json!({"schemas": [PATCH_OP]}), "invalidSyntax"),
        (json!({"schemas": [PATCH_OP], "operations": [title]}), "invalidSyntax"),
        (json!({"schemas": [PATCH_OP], "Operations": [title], "id": "u1"}), "invalidSyntax"),
        (body(json!([])), "invalidSyntax"),
        (body(json!({})), "invalidSyntax"),
        (body(json!(["title"])), "invalidSyntax"),
        (op(json!({"path": "title", "value": "x"})), "invalidSyntax"),
        (op(json!({"op": "move", "path": "title", "value": "x"})), "invalidSyntax"),
        (op(json!({"op": "replace", "path": "title", "value": "x", "from": "y"})), "invalidSyntax"),
        (op(json!({"op": "replace", "path": 7, "value": "x"})), "invalidPath"),
        (op(json!({"op": "replace", "path": "Title", "value": "x"})), "invalidPath"),
        (op(json!({"op": "replace", "path": "nickName", "value": "x"})), "invalidPath"),
        (op(json!({"op": "replace", "path": "title"})), "invalidValue"),
        (op(json!({"op": "add", "path": "title"})), "invalidValue"),
        (op(json!({"op": "replace", "path": "title", "value": 7})), "invalidValue"),
        (op(json!({"op": "replace", "path": "active", "value": "yes"})), "invalidValue"),
        (op(json!({"op": "replace", "path": "phoneNumbers", "value": "+49"})), "invalidValue"),
        (op(json!({"op": "replace", "path": "userName", "value": ""})), "invalidValue"),
        (op(json!({"op": "replace", "value": "x"})), "noTarget"),
        (op(json!({"op": "remove"})), "noTarget"),
        (op(json!({"op": "remove", "path": "password"})), "mutability"),
        (body(json!([title, title])), "invalidPath"),
        (password(json!("")), "invalidValue"),
        (password(json!(7)), "invalidValue"),
        (password(Value::Null), "invalidValue"),
        (password(json!("Sesame-42")), "invalidValue"),
        (password(json!(HASH.to_uppercase())), "invalidValue"),
        (password(json!(HASH[1..])), "invalidValue"),
        (op(languages.clone()), "invalidPath"),
        (op(json!({"op": "add", "path": format!("{URN}:routingSkills"), "value": []})), "invalidPath"),
        (with(json!([])), "invalidSyntax"),
        (with(Value::Null), "invalidSyntax"),
        (with(json!([7])), "invalidSyntax"),
        (with(json!([{"schema": URN, "operations": [languages]}])), "invalidSyntax"),
        (with(json!([{"operations": [languages]}])), "invalidSyntax"),
        (with(json!([{"schema": ENVELOPE}])), "invalidSyntax"),
        (with(json!([{"schema": ENVELOPE, "operations": []}])), "invalidSyntax"),
        (with(json!([{"schema": ENVELOPE, "operations": [languages], "x": 1}])), "invalidSyntax"),
        (with(json!([{"schema": ENVELOPE, "operations": [title]}])), "invalidPath"),
        (with(json!([{"schema": ENVELOPE, "operations": [languages, languages]}])), "invalidPath"),
    ];
    let count = table.len() as u64;
    for (body, scim_type) in table {
        let response = served.patch(&token, "u1", &body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        assert_eq!(header(&response, "content-type"), Some("application/scim+json"));
        let text = response.text().await.unwrap();
        assert!(!text.contains("Sesame-42"), "an error repeats the password");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["scimType"], scim_type, "{body} {text}");
        assert_eq!(answer["status"], "400");
        assert_eq!(answer["schemas"], json!(["urn:ietf:params:scim:api:messages:2.0:Error"]));
    }
    let not_json = served.patch(&token, "u1", &json!(0)).body("{\"schemas\":").send().await.unwrap();
    assert_eq!(not_json.status(), 400);
    assert_eq!(served.org.stats().by_status["400"], count + 1);
    assert_eq!(served.org.user("u1").unwrap().attributes.len(), 0, "a refused PATCH changes nothing");
}

#[tokio::test]
async fn the_urn_form_takes_extensions_as_paths_and_refuses_the_envelope() {
    let served = Served::with(plaintext()).await;
    let token = served.token().await;
    let skills = format!("{URN}:routingSkills");
    let good = json!({"op": "Replace", "path": skills, "value": [{"value": "spanish", "proficiency": 4}]});
    let password = json!({"op": "replace", "path": "password", "value": "Sesame-42"});
    let response = served.patch(&token, "u1", &body(json!([password, good]))).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer[URN]["routingSkills"][0]["value"], "spanish");
    assert!(served.org.user("u1").unwrap().attributes.contains_key(&skills));
    assert!(served.org.logs_in("u1", "Sesame-42"));

    let envelope = json!({"schemas": [PATCH_OP], "Operations": [good], "Extensions": [
        {"schema": ENVELOPE, "operations": [{"op": "replace", "path": "genesys:routingLanguages", "value": []}]}]});
    let bare = body(json!([{"op": "replace", "path": format!("{URN}:"), "value": []}]));
    let prefixed = body(json!([{"op": "replace", "path": "genesys:routingSkills", "value": []}]));
    for (body, scim_type) in [(envelope, "invalidSyntax"), (bare, "invalidPath"), (prefixed, "invalidPath")] {
        let answer: Value = served.patch(&token, "u1", &body).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["scimType"], scim_type);
    }
}

#[tokio::test]
async fn a_plaintext_password_must_fit_the_policy_unless_that_is_off() {
    let weak = ["Aa1-aaa", "lower-case-1", "UPPER-CASE-1", "No-Digits-Here", "NoSpecial1234", "0123456789abcdef"];
    for (policy, status) in [(true, 400), (false, 200)] {
        let served = Served::with(Settings { policy, ..plaintext() }).await;
        let token = served.token().await;
        for password in weak {
            let body = body(json!([{"op": "replace", "path": "password", "value": password}]));
            let response = served.patch(&token, "u1", &body).send().await.unwrap();
            assert_eq!(response.status(), status, "{password}");
        }
    }
}

#[tokio::test]
async fn the_envelope_form_sets_password_and_attributes_and_the_person_logs_in() {
    let served = Served::fresh().await;
    let token = served.token().await;
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let body = json!({"schemas": [PATCH_OP],
        "Operations": [{"op": "replace", "path": "password", "value": hash},
                       {"op": "add", "path": "title", "value": "Agent"},
                       {"op": "replace", "value": {"department": "Support", "active": false}}],
        "Extensions": [{"schema": ENVELOPE, "operations": [
            {"op": "replace", "path": "genesys:routingLanguages", "value": [{"value": "en", "proficiency": 4}]}]}]});
    let response = served.patch(&token, "u1", &body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), Some("application/scim+json"));
    let text = response.text().await.unwrap();
    assert!(!text.contains(hash) && !text.contains("password"));
    let resource: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(resource["userName"], "u1@example.com");
    assert_eq!((&resource["title"], &resource["active"]), (&json!("Agent"), &json!(false)));
    assert_eq!(resource["meta"]["resourceType"], "User");

    let view: UserView =
        served.client.get(format!("{}/sim/users/u1", served.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(Some(view.clone()), served.org.user("u1"));
    assert_eq!((view.password_sets, view.attributes.len()), (1, 4));
    assert_eq!(view.attributes["genesys:routingLanguages"][0]["proficiency"], 4);
    assert!(view.last_set_at.is_some());
    for (password, status) in [("abc", 200), (hash, 401), ("abd", 401)] {
        let login = json!({"userId": "u1", "password": password});
        let response = served.client.post(format!("{}/sim/login", served.url)).json(&login).send().await.unwrap();
        assert_eq!(response.status(), status);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer, json!({"ok": status == 200}));
    }
    assert!(!served.org.logs_in("u2", "abc"));
}

#[tokio::test]
async fn add_appends_to_a_list_and_remove_takes_an_attribute_away() {
    let served = Served::fresh().await;
    let token = served.token().await;
    let phone = |number: &str| json!([{"type": "work", "value": number}]);
    let steps = [
        (json!({"op": "add", "path": "phoneNumbers", "value": phone("1")}), 1),
        (json!({"op": "add", "path": "phoneNumbers", "value": phone("2")}), 2),
        (json!({"op": "add", "path": "phoneNumbers", "value": phone("2")}), 2),
        (json!({"op": "replace", "path": "phoneNumbers", "value": phone("3")}), 1),
        (json!({"op": "REMOVE", "path": "phoneNumbers"}), 0),
    ];
    for (operation, count) in steps {
        let body = body(json!([operation]));
        let answer: Value = served.patch(&token, "u1", &body).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["phoneNumbers"].as_array().map_or(0, Vec::len), count, "{body}");
    }
}

#[tokio::test]
async fn media_types_length_method_and_user_are_checked() {
    let settings = Settings { users: Some(vec!["u1".to_owned()]), quota: 0, ..Settings::default() };
    let served = Served::with(settings).await;
    let token = served.token().await;
    let url = format!("{}/api/v2/scim/v2/users/u1", served.url);
    let send = |kind: Option<&'static str>, accept: &'static str| {
        let mut request = served.client.patch(&url).bearer_auth(&token).header("accept", accept);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.body(reset_body().to_string()).send()
    };
    let scim = Some("application/scim+json");
    let table = [
        (scim, "application/scim+json", 200),
        (Some("Application/JSON; charset=utf-8"), "*/*", 200),
        (scim, "text/html, application/json;q=0.5", 200),
        (Some("text/plain"), "*/*", 415),
        (None, "*/*", 415),
        (scim, "text/html", 406),
        (scim, "application/json;q=0", 406),
    ];
    for (kind, accept, status) in table {
        assert_eq!(send(kind, accept).await.unwrap().status(), status, "{kind:?} {accept}");
    }
    let long = json!({"schemas": [PATCH_OP], "Operations": [], "x": "x".repeat(1 << 20)});
    assert_eq!(served.patch(&token, "u1", &long).send().await.unwrap().status(), 413);
    let wrong_method = served.client.put(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(wrong_method.status(), 405);
    assert!(header(&wrong_method, "allow").unwrap().contains("PATCH"));

    let unknown = served.reset(&token, "u2").await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(unknown.json::<Value>().await.unwrap()["status"], "404");
    assert_eq!(served.org.user("u2"), None);
    let view = served.client.get(format!("{}/sim/users/u2", served.url)).send().await.unwrap();
    assert_eq!(view.status(), 404);
}

#[tokio::test]
async fn users_are_shown_and_found_by_their_name() {
    let settings = Settings { users: Some(vec!["u1".to_owned(), "u2".to_owned()]), ..Settings::default() };
    let served = Served::with(settings).await;
    let token = served.token().await;
    let rename = body(json!([{"op": "replace", "path": "userName", "value": "Ann@acme.test"}]));
    assert_eq!(served.patch(&token, "u2", &rename).send().await.unwrap().status(), 200);
    let one: Value = served.get(&token, "Users/u1").send().await.unwrap().json().await.unwrap();
    assert_eq!((&one["id"], &one["userName"]), (&json!("u1"), &json!("u1@example.com")));
    assert_eq!(served.get(&token, "users/u3").send().await.unwrap().status(), 404);
    assert_eq!(served.get("wrong", "users/u1").send().await.unwrap().status(), 401);

    let named = |name: &str| format!("users?filter=userName%20eq%20%22{name}%22");
    let table = [
        (named("u1@example.com"), json!(["u1"])),
        (named("ann@acme.test"), json!(["u2"])),
        (named("u2@example.com"), json!([])),
        (named("u3@example.com"), json!([])),
        ("Users".to_owned(), json!(["u1", "u2"])),
        ("Users?startIndex=2&count=1".to_owned(), json!(["u2"])),
    ];
    for (path, ids) in table {
        let list: Value = served.get(&token, &path).send().await.unwrap().json().await.unwrap();
        let found: Vec<&Value> = list["Resources"].as_array().unwrap().iter().map(|user| &user["id"]).collect();
        assert_eq!(json!(found), ids, "{path}");
        assert_eq!(list["schemas"], json!(["urn:ietf:params:scim:api:messages:2.0:ListResponse"]));
    }
    let bad = served.get(&token, "Users?filter=title%20pr").send().await.unwrap();
    assert_eq!(bad.json::<Value>().await.unwrap()["scimType"], "invalidFilter");
}

// ---- the quota

#[tokio::test]
async fn a_window_admits_its_quota_and_every_answer_says_where_it_stands() {
    let settings = Settings { quota: 2, window: Duration::from_secs(600), ..Settings::default() };
    let served = Served::with(settings).await;
    let token = served.token().await;
    assert_eq!(served.reset("wrong", "u1").await.status(), 401);
    for (status, count) in [(200, "1"), (200, "2"), (429, "2"), (429, "2")] {
        let response = served.reset(&token, "u1").await;
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "inin-ratelimit-count"), Some(count));
        assert_eq!(header(&response, "inin-ratelimit-allowed"), Some("2"));
        let reset: u64 = header(&response, "inin-ratelimit-reset").unwrap().parse().unwrap();
        assert!((590..=600).contains(&reset));
        assert!(header(&response, "inin-correlation-id").is_some());
        assert_eq!(header(&response, "retry-after").is_some(), status == 429);
    }
    let response = served.get(&token, "Users/u1").send().await.unwrap();
    assert_eq!(response.status(), 429, "a GET passes the same quota");
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "too.many.requests");
    let stats = served.org.stats();
    assert_eq!((stats.throttled, stats.by_status["429"], stats.password_sets), (3, 2, 2));
}

#[tokio::test]
async fn retry_after_is_written_as_the_settings_say() {
    for form in [RetryAfterForm::Seconds, RetryAfterForm::Date, RetryAfterForm::Absent, RetryAfterForm::Zero] {
        let window = Duration::from_secs(600);
        let settings = Settings { quota: 1, window, retry_after: form, ..Settings::default() };
        let served = Served::with(settings).await;
        let token = served.token().await;
        served.reset(&token, "u1").await;
        let response = served.reset(&token, "u1").await;
        let text = header(&response, "retry-after");
        let seconds = match form {
            RetryAfterForm::Absent => {
                assert_eq!(text, None);
                continue;
            }
            RetryAfterForm::Zero => {
                assert_eq!(text, Some("0"));
                continue;
            }
            RetryAfterForm::Seconds => text.unwrap().parse::<u64>().unwrap(),
            RetryAfterForm::Date => {
                let date = httpdate::parse_http_date(text.unwrap()).unwrap();
                date.duration_since(std::time::SystemTime::now()).unwrap().as_secs() + 1
            }
        };
        assert!((590..=601).contains(&seconds), "{form:?}: {seconds}");
    }
}

#[tokio::test]
async fn the_next_window_begins_afresh_and_no_quota_has_no_headers() {
    let settings = Settings { quota: 1, window: Duration::from_millis(200), ..Settings::default() };
    let served = Served::with(settings).await;
    let token = served.token().await;
    let throttled = || async { served.reset(&token, "u1").await.status() == StatusCode::TOO_MANY_REQUESTS };
    eventually("a full window", throttled).await;
    eventually("the next window", || async { !throttled().await }).await;

    let served = Served::with(Settings { quota: 0, ..Settings::default() }).await;
    let token = served.token().await;
    let response = served.reset(&token, "u1").await;
    assert_eq!(header(&response, "inin-ratelimit-allowed"), None);
    assert!(header(&response, "inin-correlation-id").is_some());
}

// ---- faults

#[tokio::test]
async fn a_fault_takes_the_next_calls_of_its_user_and_is_gone() {
    let served = Served::fresh().await;
    let token = served.token().await;
    served.fault("status=503,retry_after=2,next=2,user=u1,code=overloaded");
    let mut seen = Vec::new();
    for user in ["u2", "u1", "u2", "u1", "u1"] {
        let response = served.reset(&token, user).await;
        seen.push(response.status().as_u16());
        if response.status() == 503 {
            assert_eq!(header(&response, "retry-after"), Some("2"));
            assert!(header(&response, "inin-ratelimit-count").is_some());
            assert_eq!(response.json::<Value>().await.unwrap()["code"], "overloaded");
        }
    }
    assert_eq!(seen, [200, 503, 200, 503, 200]);
    assert_eq!(served.sets("u1"), 1, "a fault without `apply` changes nothing");
}

#[tokio::test]
async fn the_body_of_a_fault_is_as_asked_for() {
    let served = Served::fresh().await;
    let table = [
        ("status=400,scim_type=invalidVers,next=1", json!("invalidVers"), "/scimType"),
        ("status=409,body=scim,next=1", json!("409"), "/status"),
        ("status=403,code=missing.permissions,next=1", json!(403), "/status"),
        ("status=500,next=1", json!("internal.server.error"), "/code"),
        ("status=418,body={\"a\":[1,2],\"b\":3},next=1", json!([1, 2]), "/a"),
    ];
    for (text, wanted, pointer) in table {
        served.fault(text);
        let answer: Value = served.reset("any", "u1").await.json().await.unwrap();
        assert_eq!(answer.pointer(pointer), Some(&wanted), "{text}");
    }
    served.fault("status=502,body=none,next=1,retry_after=Wed, 21 Oct 2026 07:28:00 GMT");
    let response = served.reset("any", "u1").await;
    assert_eq!(header(&response, "retry-after"), Some("Wed, 21 Oct 2026 07:28:00 GMT"));
    assert_eq!(response.text().await.unwrap(), "");
    served.fault("status=302,body=html,location=https://portal.example/login?next=1,next=1");
    let response = served.reset("any", "u1").await;
    assert_eq!(header(&response, "location"), Some("https://portal.example/login?next=1"));
    assert_eq!(header(&response, "content-type"), Some("text/html; charset=utf-8"));
    assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    served.fault("status=200,body={\"a\":1},content_type=text/html,next=1");
    let response = served.reset("any", "u1").await;
    assert_eq!(header(&response, "content-type"), Some("text/html"));
}

#[tokio::test]
async fn a_share_of_the_calls_is_the_same_for_the_same_seed() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let served = Served::with(Settings { quota: 0, ..Settings::default() }).await;
        let token = served.token().await;
        served.fault(&format!("status=500,share=0.5,seed={seed}"));
        let mut run = Vec::new();
        for _ in 0..64 {
            run.push(served.reset(&token, "u1").await.status() == 500);
        }
        let hit = run.iter().filter(|hit| **hit).count();
        assert!((10..=54).contains(&hit), "{hit} of 64");
        runs.push(run);
    }
    assert!(runs[0] == runs[1] && runs[0] != runs[2]);
}

#[tokio::test]
async fn an_outage_begins_and_ends_by_the_clock() {
    let before = Instant::now();
    let served = Served::with(Settings { quota: 0, ..Settings::default() }).await;
    let token = served.token().await;
    served.fault("status=503,from=500ms,to=2s");
    let down = || async { served.reset(&token, "u1").await.status() == 503 };
    assert!(!down().await || before.elapsed() >= Duration::from_millis(500));
    eventually("the outage", down).await;
    eventually("its end", || async { !down().await }).await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_or_ends_in_504_and_may_have_been_carried_out() {
    let served = Served::fresh().await;
    let token = served.token().await;
    served.fault("hang=60s,apply,next=1");
    let patch = |user: &str| served.patch(&token, user, &reset_body());
    let error = patch("u1").timeout(Duration::from_millis(500)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(served.sets("u1"), 1);

    served.fault("hang=20ms,next=1");
    assert_eq!(patch("u2").send().await.unwrap().status(), 504);
    assert_eq!(served.sets("u2"), 0);

    served.fault("hang=60s,apply=true,apply_after=1s,next=1");
    let error = patch("u3").timeout(Duration::from_millis(300)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(served.sets("u3"), 0, "it is carried out only later");
    eventually("the late change", || async { served.sets("u3") == 1 }).await;
    assert_eq!(served.org.stats().by_status["hang"], 3);
}

#[tokio::test]
async fn a_cut_closes_the_connection_without_a_byte() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = Served::fresh().await;
    let token = served.token().await;
    served.fault("cut,next=2");
    let address = served.url.trim_start_matches("http://");
    let body = reset_body().to_string();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        format!("PATCH /api/v2/scim/v2/Users/u1 HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the socket was left open");
    assert_eq!(answer, b"");
    let error = served.patch(&token, "u1", &reset_body()).send().await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout());

    served.fault("cut,apply,next=1,user=u2");
    served.patch(&token, "u2", &reset_body()).send().await.unwrap_err();
    assert_eq!((served.sets("u1"), served.sets("u2")), (0, 1));
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
    let stats = served.org.stats();
    assert_eq!((stats.by_status["cut"], stats.by_status["200"]), (3, 1));
}

#[tokio::test]
async fn a_status_with_apply_is_a_late_answer_of_a_change_that_was_valid() {
    let served = Served::fresh().await;
    let token = served.token().await;
    served.fault("status=500,apply,always");
    assert_eq!(served.reset(&token, "u1").await.status(), 500);
    assert_eq!(served.reset("wrong", "u2").await.status(), 500);
    let invalid = served.patch(&token, "u3", &body(json!([]))).send().await.unwrap();
    assert_eq!(invalid.status(), 500);
    assert_eq!([served.sets("u1"), served.sets("u2"), served.sets("u3")], [1, 0, 0]);
    served.org.clear_faults();
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
}

#[tokio::test]
async fn a_revocation_comes_before_the_call_and_the_token_endpoint_has_faults_of_its_own() {
    let served = Served::fresh().await;
    let token = served.token().await;
    served.fault("revoke,next=1");
    assert_eq!(served.reset(&token, "u1").await.status(), 401);
    let fresh = served.token().await;
    assert_eq!(served.reset(&fresh, "u1").await.status(), 200);

    served.fault("target=token,status=401,code=invalid_client,next=1");
    let refused = served.grant().send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"], "invalid_client");
    served.fault("target=token,cut,next=1");
    assert!(served.grant().send().await.is_err());
    served.fault("target=token,status=429,retry_after=3,next=1");
    let throttled = served.grant().send().await.unwrap();
    assert_eq!(header(&throttled, "retry-after"), Some("3"));
    assert_eq!(served.grant().send().await.unwrap().status(), 200);
    assert_eq!(served.reset(&fresh, "u1").await.status(), 200);
}

#[tokio::test]
async fn faults_come_over_http_all_or_none() {
    let served = Served::fresh().await;
    let token = served.token().await;
    let url = format!("{}/sim/faults", served.url);
    let post = |body: Value| served.client.post(&url).json(&body).send();
    let good = json!({"status": 500, "next": 1});
    let bad = post(json!([good, {"status": 500}])).await.unwrap();
    assert_eq!(bad.status(), 400);
    assert!(bad.text().await.unwrap().contains("`next`"));
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
    assert_eq!(post(json!([good, {"status": 502, "next": 1, "retry_after": 4}])).await.unwrap().status(), 200);
    assert_eq!(post(json!({"cut": true, "always": true})).await.unwrap().status(), 200);
    assert_eq!(served.reset(&token, "u1").await.status(), 500);
    let second = served.reset(&token, "u1").await;
    assert_eq!((second.status().as_u16(), header(&second, "retry-after")), (502, Some("4")));
    assert_eq!(served.client.delete(&url).send().await.unwrap().status(), 204);
    let revoke = format!("{}/sim/revoke", served.url);
    assert_eq!(served.client.post(&revoke).send().await.unwrap().status(), 204);
    assert_eq!(served.reset(&token, "u1").await.status(), 401);
}

#[test]
fn a_fault_that_makes_no_sense_names_the_field() {
    let table = [
        ("status=500", "exactly one of `next`"),
        ("next=1", "exactly one of `status`"),
        ("status=500,next=1,always", "next and always"),
        ("status=500,cut,next=1", "status and cut"),
        ("status=500,next=0", "`next`"),
        ("status=99,next=1", "`status`"),
        ("status=500,share=1.5", "`share`"),
        ("status=500,next=1,seed=3", "`seed`"),
        ("status=500,from=2s,to=1s", "`to`"),
        ("status=500,from=soon", "`from`"),
        ("cut,next=1,retry_after=3", "`retry_after`"),
        ("cut,next=1,code=x", "`code`"),
        ("status=500,next=1,body=page", "`body`"),
        ("cut,next=1,location=/", "`location`"),
        ("target=token,status=200,next=1,content_type=text/html", "`content_type`"),
        ("status=204,next=1,body=scim", "`body`"),
        ("status=500,next=1,scim_type=x,code=y", "`scim_type`"),
        ("status=500,next=1,scim_type=x,body=genesys", "`scim_type`"),
        ("status=500,next=1,apply_after=1s,apply", "`apply_after`"),
        ("hang=1s,next=1,apply_after=1s", "`apply_after`"),
        ("hang=x,next=1", "`hang`"),
        ("revoke,next=1,apply", "`apply`"),
        ("target=token,cut,next=1,apply", "`apply`"),
        ("target=token,cut,next=1,user=u1", "`user`"),
        ("target=mail,cut,next=1", "mail"),
        ("cut,next=many", "many"),
        ("cut,nxt=1", "nxt"),
        ("cut,next=1,next=2", "`next`"),
        ("", "pair"),
    ];
    for (text, named) in table {
        let error = text.parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains(named), "`{text}`: {error}");
    }
}

// ---- settings, counters, the end

#[test]
fn settings_are_read_from_text_and_checked() {
    let settings: Settings = serde_json::from_value(json!({
        "client_id": "me", "client_secret": "hush", "token_ttl": "250ms", "password": "plaintext",
        "extensions": "urn", "window": "1m 30s", "retry_after": "date",
        "faults": [{"hang": "2s", "share": 0.25}]
    }))
    .unwrap();
    assert_eq!(settings.token_ttl, Duration::from_millis(250));
    assert_eq!(settings.window, Duration::from_secs(90));
    assert_eq!((settings.quota, settings.faults.len()), (300, 1));
    assert!(!format!("{settings:?}").contains("hush"));
    for wrong in [json!({"quotas": 1}), json!({"window": "60"}), json!({"window": "-1s"}), json!({"password": "md5"})] {
        assert!(serde_json::from_value::<Settings>(wrong.clone()).is_err(), "{wrong}");
    }
    let named = |settings: Settings| Org::new(settings).err().unwrap().to_string();
    assert!(named(Settings { client_id: "a:b".to_owned(), ..Settings::default() }).contains("client_id"));
    assert!(named(Settings { window: Duration::ZERO, ..Settings::default() }).contains("window"));
    assert!(named(Settings { users: Some(vec![String::new()]), ..Settings::default() }).contains("users"));
}

#[tokio::test]
async fn calls_are_counted_as_they_come() {
    let served = Served::with(Settings { quota: 0, ..Settings::default() }).await;
    let token = served.token().await;
    assert_eq!(served.org.stats().first_call_ms, None);
    served.fault("hang=60s,next=5,user=slow");
    let calls: Vec<_> = (0..5).map(|_| tokio::spawn(served.patch(&token, "slow", &reset_body()).send())).collect();
    eventually("five calls in flight", || async { served.org.stats().peak_in_flight == 5 }).await;
    for call in calls {
        call.abort();
    }
    for user in ["u1", "u1", "u2"] {
        assert_eq!(served.reset(&token, user).await.status(), 200);
    }
    assert_eq!(served.reset("wrong", "u1").await.status(), 401);
    let answer = served.client.get(format!("{}/sim/stats", served.url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let stats: Stats = serde_json::from_str(&text).unwrap();
    assert_eq!(stats, served.org.stats());
    assert_eq!((stats.calls, stats.peak_per_minute), (9, 9));
    assert_eq!((stats.password_sets, stats.users, stats.sets_by_user_max), (3, 2, 2));
    let by_status: Vec<(&str, u64)> = stats.by_status.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(by_status, [("200", 3), ("401", 1), ("hang", 5)]);
    assert!(stats.first_call_ms <= stats.last_call_ms && stats.first_call_ms.is_some());
    for field in ["byStatus", "peakInFlight", "setsByUserMax", "firstCallMs", "tokensIssued"] {
        assert!(text.contains(field), "{field}");
    }
}

#[tokio::test]
async fn an_answer_is_held_back_for_the_latency() {
    let latency = Duration::from_millis(120);
    let jitter = Duration::from_millis(30);
    let served = Served::with(Settings { latency, latency_jitter: jitter, ..Settings::default() }).await;
    let token = served.token().await;
    let started = Instant::now();
    assert_eq!(served.reset(&token, "u1").await.status(), 200);
    assert!(started.elapsed() >= latency);
}

#[tokio::test]
async fn the_end_waits_for_no_connection() {
    let mut served = Served::fresh().await;
    let token = served.token().await;
    served.fault("hang=600s,next=1");
    let hanging = tokio::spawn(served.patch(&token, "u1", &reset_body()).send());
    eventually("the hanging call", || async { served.org.stats().by_status.contains_key("hang") }).await;
    served.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut served.serving).await;
    assert!(ended.unwrap().unwrap().is_ok());
    let cut = tokio::time::timeout(Duration::from_secs(5), hanging).await.unwrap().unwrap();
    assert!(cut.is_err(), "the hanging call was answered");
}

/// A reset with this password's hash, and how it was answered.
async fn set(served: &Served, token: &str, user: &str, digit: char) -> (u16, Value) {
    let value = digit.to_string().repeat(64);
    let change = body(json!([{"op": "replace", "path": "password", "value": value}]));
    let answer = served.patch(token, user, &change).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_password_that_is_too_young_is_refused_with_the_moment_and_another_attribute_is_not() {
    let min_age = Duration::from_secs(3600);
    let served = Served::with(Settings { min_age, ..Settings::default() }).await;
    let token = served.token().await;
    assert_eq!(set(&served, &token, "u1", 'a').await.0, 200);
    let (status, said) = set(&served, &token, "u1", 'b').await;
    assert_eq!((status, &said["scimType"]), (400, &json!("invalidValue")));
    let set_at: jiff::Timestamp = served.org.user("u1").unwrap().last_set_at.unwrap().parse().unwrap();
    let until = set_at + jiff::SignedDuration::from_secs(3600);
    assert_eq!(said["detail"], json!(format!("The password cannot be changed until {until}")));
    assert_eq!(set(&served, &token, "u2", 'a').await.0, 200, "another user");
    let title = body(json!([{"op": "replace", "path": "title", "value": "Agent"}]));
    assert_eq!(served.patch(&token, "u1", &title).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(served.sets("u1"), 1);
}

#[tokio::test]
async fn so_many_of_the_last_passwords_are_refused_and_no_others() {
    let served = Served::with(Settings { history: 2, ..Settings::default() }).await;
    let token = served.token().await;
    for (digit, status) in [('a', 200), ('a', 400), ('b', 200), ('a', 400), ('c', 200), ('a', 200), ('b', 200)] {
        let (answered, said) = set(&served, &token, "u1", digit).await;
        assert_eq!(answered, status, "{digit}: {said}");
        if status == 400 {
            assert_eq!(said["detail"], "The password was used before: it is in the password history");
        }
    }
    // A change that was carried out, and not seen to be.
    served.fault("status=500,apply,next=1,user=u2");
    assert_eq!(set(&served, &token, "u2", 'a').await.0, 500);
    assert_eq!(set(&served, &token, "u2", 'a').await.0, 400);
}
