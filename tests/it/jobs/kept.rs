//! What a dead letter keeps of a job: what is permitted, and of all else the name. And that a replay asks for what was refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::jobs::letters::names;
use crate::operator::dead::{DEAD, dead, declared};
use crate::operator::process::says;
use crate::world::{Plan, Taken, World, by_id, eventually, fault, named, reset_body, text, with_header};

const SECRET: &str = "tr0ub4dor";

/// A job in which a secret stands where no rule about names finds it, and what its letter says of that.
struct Case {
    name: &'static str,
    body: Vec<u8>,
    properties: BasicProperties,
    /// Named by the letter as missing, or as left out.
    named: &'static str,
}

fn case(name: &'static str, body: impl Into<Vec<u8>>, named_as: &'static str) -> Case {
    Case { name, body: body.into(), properties: named(name), named: named_as }
}

/// A good job with one field more.
fn with_field(name: &str, value: Value) -> Vec<u8> {
    let mut body = reset_body("u-1");
    body[name] = value;
    body.to_string().into_bytes()
}

fn job_that_says_it() -> String {
    json!({"userId": "u-1", "password": SECRET}).to_string()
}

/// The dozen that an attack found, and others of their kind.
fn cases() -> Vec<Case> {
    let patch = json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "path": "password", "value": SECRET}]});
    let xml = format!("<reset><userId>u-1</userId><credential>{SECRET}</credential></reset>");
    let gone = reset_body("gone").to_string();
    let header = |name: &'static str, header: &str, named_as| Case {
        properties: with_header(named(name), header, text(SECRET)),
        ..case(name, gone.as_bytes(), named_as)
    };
    vec![
        case("json-in-a-string", with_field("payload", job_that_says_it().into()), "payload"),
        case("envelope", json!({"Type": "Notification", "Message": job_that_says_it()}).to_string(), "Message"),
        case("kennwort", with_field("Kennwort", SECRET.into()), "Kennwort"),
        case("pin", with_field("pin", SECRET.into()), "pin"),
        case("patch-op", patch.to_string(), "Operations"),
        case("pair", with_field("set", json!([{"type": "password", "value": SECRET}])), "set"),
        case("form", format!("userId=u-1&new={SECRET}"), "body"),
        case("xml", xml, "body"),
        case("base64", STANDARD.encode(job_that_says_it()), "body"),
        case("authorization", with_field("authorization", format!("Bearer {SECRET}").into()), "authorization"),
        header("header-x-password", "x-password", "header x-password"),
        header("header-authorization", "authorization", "header authorization"),
        // The same in other places.
        case("text", json!(job_that_says_it()).to_string(), "body"),
        case("attribute", with_field("attributes", json!({"title": "Agent", "pin": SECRET})), "attributes.pin"),
        case(
            "in-an-attribute",
            with_field("attributes", json!({"title": {"Passwd": SECRET}, "x": 1})),
            "attributes.title",
        ),
        case("attributes", with_field("attributes", json!([SECRET])), "attributes"),
        case("user-id", with_field("userId", json!({"pin": SECRET})), "userId"),
        case("address", with_field("email", format!("pin {SECRET}").into()), "email"),
        case(
            "addresses",
            json!({"userId": "u-1", "password": 1, "emails": [{"pin": SECRET, "value": 7}]}).to_string(),
            "emails",
        ),
        case(
            "twice",
            format!(r#"{{"userId":"u-1","userId":"{SECRET}","password":1,"email":"a@example.com"}}"#),
            "userId",
        ),
        header("header-ours", "resetd-pin", "header resetd-pin"),
        header("header-not-after", "not-after", "header not-after"),
        Case { properties: named("type").with_type(SECRET.into()), ..case("type", gone.as_bytes(), "property type") },
        Case {
            properties: named("encoding").with_content_encoding(SECRET.into()),
            ..case("encoding", gone.as_bytes(), "property content_encoding")
        },
    ]
}

/// Everything of a message that can be read, the texts of its headers too.
fn all_of(taken: &Taken) -> String {
    let headers = taken.properties.headers().clone().unwrap_or_default();
    let headers = headers.inner().iter().map(|(name, value)| format!("{name}={}", said(value)));
    let headers: Vec<String> = headers.collect();
    format!("{} {:?} {}", String::from_utf8_lossy(&taken.body), taken.properties, headers.join(" "))
}

fn said(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(said).collect::<Vec<_>>().join(","),
        AMQPValue::FieldTable(table) => table.inner().values().map(said).collect::<Vec<_>>().join(","),
        other => format!("{other:?}"),
    }
}

/// That the secret is not in it, as it is or in base64.
#[track_caller]
fn holds_no_secret(name: &str, text: &str) {
    for written in [SECRET.to_owned(), STANDARD.encode(job_that_says_it())] {
        assert!(!text.contains(&written), "{name}: {text}");
    }
}

/// Jobs that are refused, each with what its letter lost. Whoever is named `b` must not be reset.
fn lossy() -> Vec<(&'static str, String, &'static str)> {
    let rest = r#""password":true,"email":"a@example.com""#;
    vec![
        ("user-twice", format!(r#"{{"userId":"a","userId":"b",{rest}}}"#), "userId"),
        (
            "address-twice",
            r#"{"userId":"b","password":true,"email":"a@example.com","email":"b@example.com"}"#.into(),
            "email",
        ),
        (
            "intent-twice",
            r#"{"userId":"b","password":false,"password":true,"email":"a@example.com"}"#.into(),
            "password",
        ),
        (
            "attribute-twice",
            format!(r#"{{"userId":"b",{rest},"attributes":{{"title":"x","title":"y"}}}}"#),
            "attributes.title",
        ),
        (
            "private-body",
            r#"{"$serde_json::private::RawValue":"{\"userId\":\"b\",\"password\":true,\"email\":\"a@example.com\"}"}"#
                .into(),
            "$serde_json::private::RawValue",
        ),
        (
            "private-attribute",
            format!(r#"{{"userId":"b",{rest},"attributes":{{"title":{{"$serde_json::private::RawValue":"\"x\""}}}}}}"#),
            "attributes.title",
        ),
        (
            "private-number",
            format!(r#"{{"userId":"b",{rest},"attributes":{{"title":[{{"$serde_json::private::Number":"1"}}]}}}}"#),
            "attributes.title",
        ),
        ("unknown", format!(r#"{{"userId":"b",{rest},"notBefore":"2099-01-01T00:00:00Z"}}"#), "notBefore"),
        (
            "not-allowed",
            format!(r#"{{"userId":"b",{rest},"attributes":{{"title":"x","active":false}}}}"#),
            "attributes.active",
        ),
        ("no-object", format!(r#"[{{"userId":"b",{rest}}}]"#), "body"),
        ("too-large", format!(r#"{{"userId":"b",{rest}{}}}"#, " ".repeat(70_000)), "body"),
    ]
}

/// Until every letter is back, whoever has looked at it.
async fn lie_there(world: &World, letters: usize) {
    eventually("all letters are there", async || (world.depth(DEAD).await as usize == letters).then_some(())).await;
}

/// The name of a job without an id is that of its letter, of the line about it, and of its replay.
async fn is_named_alike(world: &World, body: &[u8]) {
    let mut outcomes = world.outcomes().await;
    world.publish("main", body, BasicProperties::default().with_timestamp(1_700_000_000)).await;
    let name = outcomes.next().await.json()["jobId"].as_str().unwrap().to_owned();
    assert!(name.starts_with("sha256:"), "{name}");
    lie_there(world, 1).await;
    let (code, out, err) = dead(world, &["list", "--json"]).end().await;
    let line: Value = serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error}: {code} {out}{err}"));
    assert_eq!(line["jobId"], *name);
    if line["canBeReplayed"] == true {
        lie_there(world, 1).await;
        let (code, _, err) = dead(world, &["replay", &name, "--yes"]).end().await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(outcomes.next().await.json()["jobId"], format!("replay:{name}"));
    }
    lie_there(world, 1).await;
    let (code, _, err) = dead(world, &["drop", "--all", "--yes"]).end().await;
    assert_eq!(code, 0, "{err}");
    lie_there(world, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_under_any_name_and_in_any_form_is_in_no_dead_letter_which_names_what_it_left_out() {
    let world = Plan::new().start().await;
    world.main().add_fault(fault("status=404,body=scim,always,user=gone"));
    let (mut outcomes, mut dead_letters) = (world.outcomes().await, world.tap(DEAD).await);
    let cases = cases();
    for case in &cases {
        world.publish("main", &case.body, case.properties.clone()).await;
    }
    let letters = by_id(dead_letters.take(cases.len()).await);
    let mut wrong = Vec::new();
    for case in &cases {
        let letter = &letters[case.name];
        let all = all_of(letter);
        if all.contains(SECRET) || all.contains(&STANDARD.encode(job_that_says_it())) {
            wrong.push(format!("{}: {all}", case.name));
            continue;
        }
        let names = ["resetd-missing", "resetd-left-out"].map(|header| names(letter, header)).concat();
        assert!(names.iter().any(|name| name == case.named), "{}: {names:?}", case.name);
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for record in outcomes.take(cases.len()).await {
        holds_no_secret("an outcome", &all_of(&record));
    }
    let kept = &letters["attribute"];
    let expected =
        json!({"userId": "u-1", "password": true, "email": "u-1@example.com", "attributes": {"title": "Agent"}});
    assert_eq!(kept.json(), expected, "what is permitted is kept");
    for (name, bytes) in [("form", "bytes"), ("xml", "bytes"), ("base64", "bytes")] {
        assert!(letters[name].body.is_empty(), "{name}");
        assert!(letters[name].header("resetd-detail").unwrap().contains(bytes), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_itself_dead_lettered_is_shown_by_the_same_rule_and_replayed_as_it_is() {
    let world = declared().await;
    let cases = cases();
    for case in &cases {
        world.publish("main", &case.body, case.properties.clone().with_expiration("1".into())).await;
    }
    for arguments in [vec!["list"], vec!["list", "--json"]] {
        lie_there(&world, cases.len()).await;
        let (code, out, err) = dead(&world, &arguments).end().await;
        assert_eq!(code, 0, "{err}");
        holds_no_secret("list", &out);
    }
    for case in cases.iter().filter(|case| !case.named.starts_with("header") && !case.named.starts_with("property")) {
        lie_there(&world, cases.len()).await;
        let (code, out, err) = dead(&world, &["show", case.name]).end().await;
        assert_eq!(code, 0, "{err}");
        holds_no_secret(case.name, &out);
        says(&out, &["not shown", case.named]);
    }
    lie_there(&world, cases.len()).await;
    let (_, out, _) = dead(&world, &["show", "attribute", "--json"]).end().await;
    holds_no_secret("attribute", &out);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&shown["body"]["attributes"], &shown["notShown"]),
        (&json!({"title": "Agent"}), &json!(["attributes.pin"]))
    );
    lie_there(&world, cases.len()).await;
    // It still is what its producer sent, and so is its replay: nothing is missing.
    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!((code, out), (0, format!("org main: {} letters replayed\n", cases.len())), "{err}");
    let replayed = by_id(world.drained("resets.main").await);
    for case in &cases {
        assert_eq!(replayed[case.name].body, case.body, "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_asks_for_what_was_refused_and_never_for_something_else() {
    let mut world = Plan::new().start().await;
    world.main().add_fault(fault("status=404,body=scim,next=1,user=u-1"));
    let mut outcomes = world.outcomes().await;
    let lossy = lossy();
    for (name, body, _) in &lossy {
        world.publish("main", body.as_bytes(), named(name)).await;
    }
    let after = with_header(named("not-after"), "not-after", text("tomorrow"));
    world.publish("main", reset_body("b").to_string().as_bytes(), after).await;
    world.reset("main", "u-1", "good").await;
    outcomes.take(lossy.len() + 2).await;
    world.stop_worker().await.unwrap();
    lie_there(&world, lossy.len() + 2).await;

    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!(world.drained("resets.main").await.iter().map(Taken::id).collect::<Vec<_>>(), ["good"], "{out}{err}");
    assert_eq!((code, out.as_str()), (1, "org main: 1 letter replayed\n"), "{err}");
    says(&err, &["12 letters cannot be replayed and stay", "header not-after"]);
    for (name, _, missing) in &lossy {
        says(&err, &[&format!("{name} cannot be replayed: "), missing]);
    }
    lie_there(&world, lossy.len() + 1).await;
    let (code, out, _) = dead(&world, &["replay", "--all", "--dry-run", "--json"]).end().await;
    let summary: Value = serde_json::from_str(&out).unwrap();
    let counts = ["org", "action", "letters", "meant", "done", "cannot"].map(|field| summary[field].clone());
    assert_eq!(
        (code, counts),
        (1, [json!("main"), json!("replayed"), json!(12), json!(12), json!(0), json!(12)]),
        "{out}"
    );
    let why = summary["refused"].as_array().unwrap().iter().find(|letter| letter["id"] == "unknown").unwrap();
    assert!(why["why"].as_str().unwrap().contains("notBefore"), "{out}");
    lie_there(&world, lossy.len() + 1).await;
    let (_, lines, _) = dead(&world, &["list", "--json"]).end().await;
    assert_eq!(lines.lines().count(), lossy.len() + 1, "{lines}");
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_eq!(line["canBeReplayed"], false, "{line}");
        assert!(line["missing"].as_array().is_some_and(|missing| !missing.is_empty()), "{line}");
    }
    lie_there(&world, lossy.len() + 1).await;
    let (_, shown, _) = dead(&world, &["show", "unknown"]).end().await;
    says(&shown, &["not possible", "notBefore"]);
    assert_eq!(world.main().user("b").map_or(0, |user| user.password_sets), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_lost_a_value_is_no_job_though_somebody_moves_it_to_a_lane_by_other_means() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let mut dead_letters = world.tap(DEAD).await;
    world.publish("main", &with_field("notBefore", "2099-01-01T00:00:00Z".into()), named("job-1")).await;
    for _ in 0..2 {
        assert_eq!(outcomes.next().await.json()["reason"], "invalid_job");
        let letter = dead_letters.next().await;
        assert!(!names(&letter, "resetd-missing").is_empty());
        // As a shovel does it, and then once more: it stays what it is.
        world.publish("main", &letter.body, letter.properties.clone()).await;
    }
    let again = outcomes.next().await.json();
    assert!(again["detail"].as_str().unwrap().contains("resetd-missing"), "{again}");
    assert_eq!(world.main().stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_an_older_version_are_listed_shown_and_replayed_but_for_those_with_a_field_that_stood_twice() {
    let world = declared().await;
    let old = |id: &str, reason: &str, detail: &str| {
        let properties = with_header(named(id), "resetd-reason", text(reason));
        with_header(with_header(properties, "resetd-detail", text(detail)), "x-mine", text("mine"))
    };
    let with_more = json!({"userId": "u-1", "password": true, "email": "a@example.com", "Kennwort": SECRET});
    let twice = "userId: the field stands twice; it must stand once";
    let private = "\"$serde_json::private::RawValue\": unknown field; a job has userId";
    crate::operator::dead::dead_letter(
        &world,
        vec![
            (reset_body("u-1").to_string().into_bytes(), old("good", "not_found", "Not Found")),
            (with_more.to_string().into_bytes(), old("more", "invalid_job", "\"Kennwort\": unknown field")),
            (reset_body("b").to_string().into_bytes(), old("twice", "invalid_job", twice)),
            (reset_body("b").to_string().into_bytes(), old("private", "invalid_job", private)),
            (format!("hello {SECRET}").into_bytes(), old("text", "invalid_job", "body: it is not JSON")),
        ],
    )
    .await;
    for arguments in [vec!["list", "--json"], vec!["show", "more"], vec!["show", "text", "--json"]] {
        lie_there(&world, 5).await;
        let (code, out, err) = dead(&world, &arguments).end().await;
        assert_eq!(code, 0, "{err}");
        holds_no_secret("an old letter", &out);
    }
    lie_there(&world, 5).await;
    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!((code, out.as_str()), (1, "org main: 3 letters replayed\n"), "{err}");
    says(&err, &["twice cannot be replayed", "private cannot be replayed"]);
    let replayed = by_id(world.drained("resets.main").await);
    assert_eq!(replayed.keys().collect::<Vec<_>>(), ["good", "more", "text"]);
    assert_eq!(replayed["good"].json(), reset_body("u-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_an_id_keeps_its_name_whatever_its_letter_left_out() {
    let world = Plan::new().start().await;
    world.main().add_fault(fault("status=404,body=scim,always,user=gone"));
    is_named_alike(&world, &with_field("pin", SECRET.into())).await;
    is_named_alike(&world, b"no JSON").await;
    let spread = r#"{ "userId": "gone", "password": 1, "emails": [{"value": "a@example.com", "type": "work"}] }"#;
    is_named_alike(&world, spread.as_bytes()).await;
}
