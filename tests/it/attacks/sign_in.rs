//! Who may see the page: what guesses cost, what the cookie is, under which names it is served, and what those see who do not know the
//! token.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode};
use resetd::commands::demo::postbox::Postbox;
use serde_json::{Value, json};

use crate::operator::process::{Process, Run};
use crate::world::{Plan, World, eventually, fault, unlimited};

const TOKEN: &str = "9f2c41d07be85a3366e1f0947cd2ab185e0b7f3a";

fn with_token() -> Plan {
    Plan::new().config(&format!("[http]\ntoken = {TOKEN:?}"))
}

/// A client that follows nothing and keeps no cookie.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// The form, filled in.
fn sign_in(client: &reqwest::Client, http: &str, token: &str) -> RequestBuilder {
    let form = client.post(format!("{http}/")).header("content-type", "application/x-www-form-urlencoded");
    form.body(format!("token={token}"))
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

/// A guess in one of the three ways to show a token.
fn guess(client: &reqwest::Client, http: &str, port: u16, n: usize) -> RequestBuilder {
    let guessed = format!("{n:040x}");
    match n % 3 {
        0 => client.get(format!("{http}/state")).bearer_auth(guessed),
        1 => client.get(format!("{http}/")).header("cookie", format!("resetd_page_{port}={guessed}")),
        _ => sign_in(client, http, &guessed),
    }
}

fn port(http: &str) -> u16 {
    http.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// What `/readyz` says of `main`, and the whole of it as text.
async fn readyz(request: RequestBuilder) -> (u16, Value, String) {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    let said: Value = serde_json::from_str(&text).unwrap();
    (status, said["orgs"]["main"].clone(), text)
}

/// Halted by an answer that is not the org's, whose reason names a host and a user.
async fn halted(plan: Plan) -> World {
    let world = plan.start().await;
    let portal = "status=302,body=html,location=https://portal.example/login,always";
    world.main().add_fault(fault(portal));
    world.reset("main", "the-user-1", "job-1").await;
    eventually("it is halted", async || (world.readyz().await.0 == 503).then_some(())).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_slowed_and_counted_and_logged_at_most_once_a_minute_and_keep_nobody_else_out() {
    let world = with_token().prepare().await;
    let (mut worker, http) = Process::worker(&world).await;
    let (client, began) = (client(), Instant::now());
    let guesses = (0..200).map(|n| status(guess(&client, &http, port(&http), n)));
    let guessing = futures_util::future::join_all(guesses);
    // Somebody at another address is let in meanwhile.
    let elsewhere = async {
        let other = reqwest::Client::builder().no_proxy().local_address(Some([127, 0, 0, 2].into())).build().unwrap();
        let (asked, state) = (Instant::now(), other.get(format!("{http}/state")).bearer_auth(TOKEN));
        assert_eq!(status(state).await, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    };
    let (answers, ()) = tokio::join!(guessing, elsewhere);
    let took = began.elapsed();
    let of = |status: u16| answers.iter().filter(|answer| answer.as_u16() == status).count();
    eprintln!("200 guesses in {took:?}: {} looked at, {} refused unseen", of(401), of(429));
    assert_eq!(of(401) + of(429), 200);
    assert!(of(401) as u64 <= 15 + took.as_secs(), "{} of them were looked at within {took:?}", of(401));
    // The right one is believed as soon as one from here is looked at again, in all three ways.
    let right = eventually("the right token is let in", async || {
        let answer = sign_in(&client, &http, TOKEN).send().await.unwrap();
        (answer.status() == 303).then(|| answer.headers()["set-cookie"].to_str().unwrap().to_owned())
    })
    .await;
    let cookie = right.split(';').next().unwrap();
    // A browser that is signed in does not notice: it has shown that it knows the token.
    for n in 0..30 {
        drop(guess(&client, &http, port(&http), n).timeout(Duration::from_millis(50)).send().await);
    }
    let asked = Instant::now();
    assert_eq!(status(client.get(format!("{http}/state")).header("cookie", cookie)).await, 200);
    // A guess would wait for some 4 s.
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    let metrics = testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
    let counted = |result: &str| {
        let series = format!("resetd_sign_ins_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<usize>().ok()).unwrap_or_default()
    };
    assert!(counted("failed") >= of(401) && counted("limited") >= of(429) && counted("granted") >= 1, "{metrics}");
    let log = worker.stderr();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("failed sign-in")).collect();
    assert!((1..=2).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].contains("127.0.0.1") && lines[0].contains("WARN"), "{lines:?}");
    assert_eq!(worker.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_expires_is_for_this_port_alone_and_for_tls_where_it_came_by_that() {
    let world = with_token().start().await;
    let (http, client) = (world.worker().http.clone(), client());
    let set = async |request: RequestBuilder| {
        let entered = request.send().await.unwrap();
        assert_eq!((entered.status().as_u16(), &entered.headers()["location"]), (303, &"/".parse().unwrap()));
        entered.headers()["set-cookie"].to_str().unwrap().to_owned()
    };
    let plain = set(sign_in(&client, &http, TOKEN)).await;
    let (cookie, attributes) = plain.split_once("; ").unwrap();
    assert!(cookie.starts_with(&format!("resetd_page_{}=", port(&http))), "{cookie}");
    let mut attributes: Vec<&str> = attributes.split("; ").collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict"]);
    assert!(!cookie.contains(TOKEN));
    assert_eq!(status(client.get(format!("{http}/state")).header("cookie", cookie)).await, 200);
    // By a proxy with TLS, which a browser reaches at a port of its own.
    for (header, value) in [("x-forwarded-proto", "https"), ("forwarded", "for=192.0.2.60;proto=https")] {
        let by_tls = set(sign_in(&client, &http, TOKEN).header(header, value).header("host", "localhost")).await;
        assert!(by_tls.starts_with("resetd_page_443=") && by_tls.ends_with("; Secure"), "{header}: {by_tls}");
        let cookie = by_tls.split(';').next().unwrap();
        let asked = client.get(format!("{http}/state")).header("host", "localhost");
        assert_eq!(status(asked.header(header, value).header("cookie", cookie)).await, 200, "{header}");
    }
    for (header, value) in [("x-forwarded-proto", "http"), ("x-forwarded-proto", "http, https")] {
        let plain = set(sign_in(&client, &http, TOKEN).header(header, value)).await;
        assert!(!plain.contains("Secure"), "{value}: {plain}");
    }
    // A cookie whose end is put off is none.
    let (name, value) = cookie.split_once('=').unwrap();
    let (until, proof) = value.split_once('.').unwrap();
    let later = format!("{name}={}.{proof}", until.parse::<u64>().unwrap() + 1);
    assert_eq!(status(client.get(format!("{http}/state")).header("cookie", later)).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_an_address_is_not_looked_at() {
    let world = with_token().start().await;
    let (http, client) = (&world.worker().http, client());
    for address in [format!("/?token={TOKEN}"), format!("/state?token={TOKEN}"), format!("/events?token={TOKEN}")] {
        let answer = client.get(format!("{http}{address}")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("set-cookie")), (401, None), "{address}");
    }
    let posted = client.post(format!("{http}/?token={TOKEN}")).header("content-length", "0");
    assert!(!status(posted).await.is_redirection());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_headers_that_keep_it_from_being_anything_else() {
    let world = with_token().start().await;
    let (http, client) = (&world.worker().http, client());
    let get = |path: &str| client.get(format!("{http}{path}"));
    let requests = [
        ("health", get("/healthz")),
        ("readiness", get("/readyz")),
        ("metrics", get("/metrics")),
        ("form", get("/")),
        ("page", get("/").bearer_auth(TOKEN)),
        ("data", get("/state").bearer_auth(TOKEN)),
        ("events", get("/events").bearer_auth(TOKEN)),
        ("no token", get("/state")),
        ("entered", sign_in(&client, http, TOKEN)),
        ("another name", get("/").header("host", "rebound.example")),
        ("nothing", get("/nothing")),
        ("another method", client.put(format!("{http}/state"))),
        ("no form", client.post(format!("{http}/")).header("content-type", "text/plain").body("token")),
    ];
    for (what, request) in requests {
        let answer = request.send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
        for (name, wanted) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(header(name), wanted, "{what}: {name}");
        }
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{what}: {policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{what}: {policy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_served_under_this_machines_names_and_those_that_are_configured_and_health_under_any() {
    for token in [None, Some(TOKEN)] {
        let own = token.map_or_else(String::new, |token| format!("token = {token:?}\n"));
        let allowed = "allowed_hosts = [\"Resetd.example.com\", \"192.0.2.7\", \"[2001:db8::7]\"]";
        let world = Plan::new().config(&format!("[http]\n{own}{allowed}")).start().await;
        let (http, client) = (world.worker().http.clone(), client());
        let asked = |path: &str, host: &str| {
            client.get(format!("{http}{path}")).header("host", host).bearer_auth(token.unwrap_or_default())
        };
        for host in [
            "127.0.0.1:9464",
            "127.9.9.9",
            "localhost",
            "LocalHost:80",
            "localhost.",
            "[::1]:9464",
            "resetd.example.com",
            "RESETD.example.com:443",
            "192.0.2.7:9464",
            "[2001:db8:0::7]",
        ] {
            for path in ["/", "/state"] {
                assert_eq!(status(asked(path, host)).await, 200, "{host} {path}");
            }
            let no_form = client.post(format!("{http}/")).header("content-type", "text/plain").body("x");
            assert_eq!(status(no_form.header("host", host)).await, 415, "{host}");
        }
        for host in [
            "rebound.example:9464",
            "localhost.rebound.example",
            "127.0.0.1.rebound.example",
            "resetd.example.com.rebound.example",
            "x.resetd.example.com",
            "192.0.2.8",
            "[2001:db8::8]",
            "",
            "localhost@rebound.example",
            "localhost, rebound.example",
        ] {
            for path in ["/", "/state", "/events"] {
                assert_eq!(status(asked(path, host)).await, 421, "{host} {path}");
            }
            let form = sign_in(&client, &http, TOKEN).header("host", host);
            assert_eq!(status(form).await, 421, "{host}");
            // Whatever it brings.
            let no_form = client.post(format!("{http}/")).header("content-type", "text/plain").body("x");
            assert_eq!(status(no_form.header("host", host)).await, 421, "{host}");
            for path in ["/healthz", "/readyz", "/metrics"] {
                assert_eq!(status(asked(path, host)).await, 200, "{host} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_know_the_token_learns_from_readyz_roles_and_kinds_of_reasons_alone() {
    let world = halted(with_token()).await;
    let (http, client) = (&world.worker().http, client());
    let ready = || client.get(format!("{http}/readyz"));
    let (status, main, text) = readyz(ready()).await;
    assert_eq!((status, &main["role"], &main["reason"]), (503, &json!("halted"), &json!("foreign_answer")));
    for told in ["portal", "127.0.0.1", "the-user-1", "Users", "http"] {
        assert!(!text.contains(told), "{told} is in {text}");
    }
    for request in [ready().bearer_auth("0".repeat(40)), ready().bearer_auth(TOKEN).header("host", "rebound.example")] {
        let (status, main, _) = readyz(request).await;
        assert_eq!((status, &main["reason"]), (503, &json!("foreign_answer")));
    }
    let cookie = sign_in(&client, http, TOKEN).send().await.unwrap().headers()["set-cookie"].clone();
    let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
    for request in [ready().bearer_auth(TOKEN), ready().header("cookie", cookie)] {
        let (status, main, _) = readyz(request).await;
        let why = main["reason"].as_str().unwrap();
        assert!(status == 503 && why.contains("https://portal.example/login") && why.contains("the-user-1"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_token_readyz_says_all_of_it_on_this_machine_and_kinds_under_another_name() {
    let world = halted(Plan::new()).await;
    let (http, client) = (&world.worker().http, client());
    let (_, main, _) = readyz(client.get(format!("{http}/readyz"))).await;
    assert!(main["reason"].as_str().unwrap().contains("portal.example"), "{main}");
    let (status, main, text) = readyz(client.get(format!("{http}/readyz")).header("host", "worker-1:9464")).await;
    assert_eq!((status, &main["reason"]), (503, &json!("foreign_answer")));
    assert!(!text.contains("portal"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_breaker_and_a_closed_lane_only_the_kind_is_said_to_whoever_does_not_know_the_token() {
    let keys = "guard_per_hour = 1";
    let world = with_token().org("main", unlimited(), keys).start().await;
    world.reset("main.bulk", "u-0", "u-0").await;
    let (http, client) = (&world.worker().http, client());
    let row = async |token: &str| readyz(client.get(format!("{http}/readyz")).bearer_auth(token)).await.1;
    let bare = async || readyz(client.get(format!("{http}/readyz"))).await.1;
    let closed = eventually("the bulk lane is closed", async || {
        let row = bare().await;
        row["bulk"].is_object().then_some(row)
    })
    .await;
    assert_eq!((&closed["bulk"]["state"], &closed["bulk"]["cause"]), (&json!("closed"), &json!("guard_per_hour")));
    assert!(row(TOKEN).await["bulk"]["cause"].as_str().unwrap().contains("allows 1"));
    world.main().add_fault(fault("status=503,always"));
    for n in 1..8 {
        world.reset("main", &format!("u-{n}"), &format!("u-{n}")).await;
    }
    let open = eventually("the breaker opens", async || {
        let row = bare().await;
        row["breaker"].is_object().then_some(row)
    })
    .await;
    let cause = open["breaker"]["cause"].as_str().unwrap();
    assert!(["faults_in_row", "half_of_calls"].contains(&cause), "{open}");
    assert!(row(TOKEN).await["breaker"]["cause"].as_str().unwrap().contains("503"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_forged_notifications_make_no_series_of_their_own() {
    let postbox = Postbox::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Plan::new().config(&crate::mails::mailer::section(port)).prepare().await;
    let _serving = crate::mails::mailer::serve(&postbox, listener).await;
    let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).start();
    let http = mailer.http().await;
    crate::mails::mailer::role_is(&http, "active").await;
    for n in 0..300 {
        let mut note = crate::mails::mailer::note(n, 0);
        note["org"] = if n == 0 { json!("main") } else { json!(format!("forged{n}")) };
        crate::mails::mailer::notify(&world, &note, lapin::BasicProperties::default()).await;
    }
    let metrics = eventually("all are counted", async || {
        let metrics = testkit::http::get(format!("{http}/metrics")).await.ok()?.text().await.ok()?;
        let series = metrics.lines().filter(|line| line.starts_with("resetd_mails_total{"));
        let counted: u64 = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
        (counted == 300).then_some(metrics)
    })
    .await;
    let series: Vec<&str> = metrics.lines().filter(|line| line.starts_with("resetd_mails_total{")).collect();
    eprintln!("{series:?}");
    assert_eq!(series.len(), 2, "{series:?}");
    assert!(!metrics.contains("forged"), "{series:?}");
    assert!(series.iter().any(|line| line.contains("org=\"main\"") && line.ends_with(" 1")), "{series:?}");
    assert_eq!(mailer.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_can_be_guessed_is_refused_with_how_to_make_one() {
    let world = Plan::new().prepare().await;
    for token in ["resetd-local-page", "hunter2hunter2hunter2hunter2", "0123456789abcdef0123456789abcdef"] {
        let run = Run::of(&world, &["worker"]).config(&format!("[http]\ntoken = {token:?}"));
        let said =
            crate::operator::process::ends(run, 2, &["http.token", "guessable", "128 bits", "openssl rand -hex 32"])
                .await;
        assert!(!said.contains(token), "{said}");
    }
}
