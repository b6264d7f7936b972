//! Mails on their way to the next hop: real and scripted mail servers, and a service over HTTP.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use mail_parser::MessageParser;
use resetd::config::{Config, Environment};
use resetd::domain::note::{NoteId, Words};
use resetd::domain::password::Password;
use resetd::domain::recipient::Recipient;
use resetd::transport::{Courier, Mail, Templates, Undelivered};
use resetd::wire::notification;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::browser::{Browser, Tab};
use crate::certificates::Authority;
use crate::mail_server::{CUT, HANG, RealServer, ScriptedServer};
use crate::world::{eventually, refusing_port};

const PASSWORD: &str = "pw-<&>\"'/!*-7";
const MAX: Duration = Duration::from_secs(900);

fn config(text: &str) -> Config {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(&[file.path().to_owned()], Environment::of([])).unwrap()
}

fn courier(text: &str) -> Courier {
    Courier::new(&config(text).delivery().unwrap(), MAX).unwrap()
}

/// To a server on this machine, without TLS.
fn plain(port: u16, more: &str) -> Courier {
    courier(&format!(
        "[mailer]\ntimeout = \"20s\"\nfrom = \"noreply@example.com\"\n{more}\n[mailer.smtp]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"off\"\n"
    ))
}

/// The same with little patience, such as `300ms`.
fn hasty(port: u16, timeout: &str) -> Courier {
    courier(&format!(
        "[mailer]\ntimeout = \"{timeout}\"\nfrom = \"noreply@example.com\"\n\
         [mailer.smtp]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"off\"\n"
    ))
}

fn encrypted(port: u16, tls: &str, ca: &Path, password: &str) -> Courier {
    courier(&format!(
        "[mailer]\ntimeout = \"20s\"\nfrom = \"Service desk <noreply@example.com>\"\n[mailer.smtp]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"{tls}\"\nca_file = {ca:?}\nuser = \"mailer\"\npassword = \"{password}\"\n"
    ))
}

fn mail_to(to: &str) -> Mail {
    Mail {
        id: NoteId::parse("0f6e7c1a-5b7e").unwrap(),
        to: Recipient::parse("to", to).unwrap(),
        password: Password::known(Zeroizing::new(PASSWORD.into())),
        subject: "Ihr vorläufiges Passwort".into(),
        text: Zeroizing::new(format!("Grüße\n.\nIt is {PASSWORD}\n")),
        html: Some(Zeroizing::new("<p>Grüße</p>".into())),
    }
}

fn mail() -> Mail {
    mail_to("agent@example.com")
}

/// What is done next, and the status: `again 450`.
fn said(result: Result<resetd::transport::Delivered, Undelivered>) -> (String, String) {
    let named = |what: &str, status: Option<u16>| status.map_or(what.to_owned(), |status| format!("{what} {status}"));
    match result {
        Ok(delivered) => (named("delivered", Some(delivered.status)), String::new()),
        Err(Undelivered::Again { detail, status, after }) => {
            let after = after.map(|after| format!(" after {} s", after.as_secs())).unwrap_or_default();
            (named("again", status) + &after, detail)
        }
        Err(Undelivered::Later { detail, status }) => (named("later", Some(status)), detail),
        Err(Undelivered::Refused { detail, status }) => (named("refused", Some(status)), detail),
        Err(Undelivered::Never { detail, status }) => (named("never", status), detail),
        Err(Undelivered::Stop { detail, status }) => (named("stop", status), detail),
    }
}

/// What a mail service was sent.
type Posted = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A mail service that answers as it is told by the address it is to send to.
async fn service() -> (u16, Posted) {
    let posted = Posted::default();
    let seen = Arc::clone(&posted);
    let answer = move |headers: HeaderMap, body: axum::Json<Value>| async move {
        let to = body.0["to"].as_str().unwrap().to_owned();
        seen.lock().unwrap().push((headers, body.0.clone()));
        let [status, rest] = to.split_once('@').unwrap().0.splitn(2, '-').chain([""]).collect::<Vec<_>>()[..2] else {
            panic!()
        };
        let status = StatusCode::from_u16(status.parse().unwrap()).unwrap();
        let headers = match rest {
            "" => vec![],
            "moved" => vec![("location", "/elsewhere".to_owned())],
            "hang" => std::future::pending().await,
            after => vec![("retry-after", after.to_owned())],
        };
        let text = format!("no: {} for {to}\r\ntoken t0ken-long", body.0["body"].as_str().unwrap());
        (status, axum::response::AppendHeaders(headers), text).into_response()
    };
    let elsewhere = || async { (StatusCode::OK, "taken elsewhere") };
    let app = axum::Router::new()
        .route("/send", axum::routing::post(answer))
        .route("/elsewhere", axum::routing::any(elsewhere));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (port, posted)
}

/// What is selected after one click into the middle of the password.
async fn selected_by_a_click(tab: &mut Tab) -> String {
    let place = "(() => { const { x, y, width, height } = document.querySelector('#password').getBoundingClientRect(); return [x + width / 2, y + height / 2]; })()";
    let place = tab.value(place).await;
    for kind in ["mousePressed", "mouseReleased"] {
        let params = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
        tab.call("Input.dispatchMouseEvent", params).await;
    }
    tab.value("getSelection().toString()").await.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_with_starttls_and_a_login_takes_a_mail_as_it_was_meant() {
    let authority = Authority::new();
    let server = RealServer::start("starttls", Some(&authority)).await;
    let courier = encrypted(server.port, "required", &authority.certificate(), "pass word");
    assert_eq!(said(courier.deliver(&mail()).await), ("delivered 250".into(), String::new()));
    let (envelope, bytes) = server.mail(0).await;
    assert_eq!((&envelope["from"], &envelope["to"]), (&json!("noreply@example.com"), &json!(["agent@example.com"])));
    assert_eq!(envelope["encrypted"], true);
    let parsed = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(parsed.subject(), Some("Ihr vorläufiges Passwort"));
    assert_eq!(parsed.from().unwrap().first().unwrap().name(), Some("Service desk"));
    assert_eq!(parsed.message_id(), Some("0f6e7c1a-5b7e@example.com"));
    assert_eq!(parsed.header("Auto-Submitted").and_then(|value| value.as_text()), Some("auto-generated"));
    assert_eq!(parsed.body_text(0).unwrap().replace("\r\n", "\n"), *mail().text);
    assert_eq!(parsed.body_html(0).unwrap().trim_end(), "<p>Grüße</p>");

    let many: Vec<Mail> = (0..20).map(|n| mail_to(&format!("agent{n}@example.com"))).collect();
    let all = futures_util::future::join_all(many.iter().map(|mail| courier.deliver(mail))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(server.count(), 21);
    courier.close().await;

    let stranger = Authority::new();
    let untrusting = encrypted(server.port, "required", &stranger.certificate(), "pass word");
    let (what, detail) = said(untrusting.deliver(&mail()).await);
    assert!(what == "stop" && detail.contains("certificate"), "{what}: {detail}");
    let refused = encrypted(server.port, "required", &authority.certificate(), "wrong word");
    let (what, detail) = said(refused.deliver(&mail()).await);
    assert!(what == "stop 535" && detail.contains("the login") && !detail.contains("wrong word"), "{what}: {detail}");
    assert_eq!(server.count(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_with_tls_from_the_first_byte_takes_a_mail_and_one_for_another_host_does_not() {
    let authority = Authority::new();
    let server = RealServer::start("wrapper", Some(&authority)).await;
    let courier = encrypted(server.port, "wrapper", &authority.certificate(), "pass word");
    assert_eq!(said(courier.deliver(&mail()).await).0, "delivered 250");
    assert_eq!(server.mail(0).await.0["encrypted"], true);
    let text = format!(
        "[mailer]\nfrom = \"noreply@example.com\"\n[mailer.smtp]\nhost = \"localhost\"\nport = {}\ntls = \"wrapper\"\nca_file = {:?}\n",
        server.port,
        authority.certificate()
    );
    let (what, detail) = said(self::courier(&text).deliver(&mail()).await);
    assert!(what == "stop" && detail.contains("certificate"), "its certificate is for 127.0.0.1: {what}: {detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_outside_ascii_is_sent_where_the_server_takes_it_and_given_up_where_not() {
    let server = RealServer::start("off", None).await;
    let courier = plain(server.port, "");
    assert_eq!(said(courier.deliver(&mail_to("ägent@exämple.com")).await).0, "delivered 250");
    let (envelope, bytes) = server.mail(0).await;
    assert_eq!(envelope["to"], json!(["ägent@xn--exmple-cua.com"]));
    assert!(envelope["options"].to_string().contains("SMTPUTF8"), "{envelope}");
    let parsed = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("ägent@xn--exmple-cua.com"));
    let without = ScriptedServer::start(&[]).await;
    let (what, detail) = said(plain(without.port, "").deliver(&mail_to("ägent@example.com")).await);
    assert!(what == "never" && detail.contains("SMTPUTF8"), "{what}: {detail}");
    assert_eq!(said(plain(without.port, "").deliver(&mail_to("agent@exämple.com")).await).0, "delivered 250");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_a_mail_server_leads_to_what_is_done_next() {
    for (verb, answer, expected) in [
        ("greeting", "421 too busy", "again 421"),
        ("greeting", "554 go away", "stop 554"),
        ("EHLO", "421 later", "again 421"),
        ("MAIL", "421 later", "again 421"),
        ("MAIL", "451 later", "again 451"),
        ("MAIL", "530 log in first", "stop 530"),
        ("MAIL", "550 not from you", "stop 550"),
        ("RCPT", "421 closing", "again 421"),
        ("RCPT", "450 greylisted", "later 450"),
        ("RCPT", "452 full", "later 452"),
        ("RCPT", "550 5.1.1 <agent@example.com> unknown", "never 550"),
        ("RCPT", "550 5.1.1 <Agent@Example.COM> unknown", "never 550"),
        ("RCPT", "550 no such user", "never 550"),
        ("RCPT", "554 5.7.1 <agent@example.com>: Relay access denied", "refused 554"),
        ("RCPT", "553-no\r\n553 such", "refused 553"),
        ("RCPT", "535 who are you", "stop 535"),
        ("DATA", "421 closing", "again 421"),
        ("DATA", "451 later", "later 451"),
        ("DATA", "452 disk full", "again 452"),
        ("DATA", "554 no", "refused 554"),
        ("DATA", "250 out of step", "again 250"),
        (".", "421 closing", "again 421"),
        (".", "451 scanning failed", "later 451"),
        (".", "552 too large", "refused 552"),
        (".", "554 5.7.1 I read pw-<&>\"'/!*-7 in it", "refused 554"),
        (".", "no answer at all", "again"),
    ] {
        let server = ScriptedServer::start(&[(verb, &[answer])]).await;
        let (what, detail) = said(plain(server.port, "").deliver(&mail()).await);
        assert_eq!(what, expected, "{verb} {answer}: {detail}");
        assert!(!detail.contains('@') && !detail.contains(PASSWORD) && !detail.contains('\n'), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_or_cuts_at_any_stage_is_asked_again() {
    let begun = Instant::now();
    for verb in ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."] {
        let server = ScriptedServer::start(&[(verb, &[HANG])]).await;
        let (what, detail) = said(hasty(server.port, "300ms").deliver(&mail()).await);
        assert!(what == "again" && detail.contains("in time"), "{verb}: {what}: {detail}");
        let server = ScriptedServer::start(&[(verb, &[CUT])]).await;
        let (what, detail) = said(plain(server.port, "").deliver(&mail()).await);
        assert!(what == "again" && detail.contains("lost"), "{verb}: {what}: {detail}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "the time limits hold: {:?}", begun.elapsed());
    let nobody = refusing_port();
    assert_eq!(said(plain(nobody.local_addr().unwrap().port(), "").deliver(&mail()).await).0, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_starttls_nothing_is_said_of_the_mail_or_the_login() {
    let authority = Authority::new();
    let bare = "250-scripted\r\n250 AUTH PLAIN";
    let server = ScriptedServer::start(&[("EHLO", &[bare])]).await;
    let courier = encrypted(server.port, "required", &authority.certificate(), "pass word");
    let (what, detail) = said(courier.deliver(&mail()).await);
    assert!(what == "stop" && detail.contains("STARTTLS"), "{what}: {detail}");
    // Somebody on the way adds, in clear, answers to what will be asked under TLS.
    let offers = "250-scripted\r\n250 STARTTLS";
    let more = "220 go\r\n250 scripted\r\n250 fine\r\n250 fine\r\n354 go on\r\n250 taken";
    let injecting = ScriptedServer::start(&[("EHLO", &[offers]), ("STARTTLS", &[more])]).await;
    let courier = encrypted(injecting.port, "required", &authority.certificate(), "pass word");
    let (what, detail) = said(courier.deliver(&mail()).await);
    assert!(what == "stop" && detail.contains("TLS"), "{what}: {detail}");
    for said in [server.said(), injecting.said()].concat() {
        assert!(
            said.iter().all(|line| line.starts_with("EHLO")
                || !line.is_ascii()
                || line == "STARTTLS"
                || line.starts_with("QUIT")
                || line.contains(char::is_control)),
            "{said:?}"
        );
        assert!(!said.iter().any(|line| line.contains("AUTH") || line.contains("MAIL")), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again_after_an_ended_transaction_and_no_other() {
    let server = ScriptedServer::start(&[("RCPT", &["250 fine", "550 unknown", "250 fine", "450 later"])]).await;
    let courier = plain(server.port, "");
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(said(courier.deliver(&mail()).await).0);
    }
    assert_eq!(all, ["delivered 250", "refused 550", "delivered 250", "later 450", "delivered 250"]);
    let connections = server.said();
    assert_eq!(connections.len(), 1, "{connections:?}");
    assert_eq!(connections[0].iter().filter(|line| *line == "RSET").count(), 2, "{connections:?}");

    // One that its server has closed since is replaced, and the mail does not notice.
    let server = ScriptedServer::start(&[("MAIL", &["250 fine", CUT, "250 fine", "421 idle too long"])]).await;
    let courier = plain(server.port, "");
    for n in 0..3 {
        assert_eq!(said(courier.deliver(&mail()).await).0, "delivered 250", "mail {n}");
    }
    assert_eq!(server.said().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_is_given_up_halfway_leaves_nothing_to_the_next_one() {
    let server = ScriptedServer::start(&[("RCPT", &["250 fine", HANG]), ("DATA", &["354 go on"])]).await;
    // Long enough for those whom nothing holds up.
    let courier = hasty(server.port, "2s");
    assert_eq!(said(courier.deliver(&mail_to("first@example.com")).await).0, "delivered 250");
    assert_eq!(said(courier.deliver(&mail_to("second@example.com")).await).0, "again");
    // One more is dropped by its caller at an await of its own.
    let stuck = ScriptedServer::start(&[("DATA", &[HANG])]).await;
    let (dropped, third) = (plain(stuck.port, ""), mail_to("third@example.com"));
    let hangs = async || stuck.said().iter().flatten().any(|line| line == "DATA").then_some(());
    tokio::select! {
        ended = dropped.deliver(&third) => panic!("it has ended: {:?}", said(ended)),
        () = eventually("it hangs", hangs) => {}
    }
    assert_eq!(said(dropped.deliver(&mail_to("fourth@example.com")).await).0, "delivered 250");
    assert_eq!(said(courier.deliver(&mail_to("fifth@example.com")).await).0, "delivered 250");
    for connections in [server.said(), stuck.said()] {
        for said in &connections {
            let mut open = 0;
            for line in said {
                match line.split([' ', ':']).next().unwrap() {
                    "RCPT" => open += 1,
                    "MAIL" | "RSET" => open = 0,
                    _ => {}
                }
                assert!(open <= 1, "a mail for two: {said:?}");
            }
        }
        assert_eq!(connections.len(), 2, "{connections:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_open_than_the_pool_has() {
    let server = ScriptedServer::start(&[]).await;
    let courier = courier(&format!(
        "[mailer]\ntimeout = \"20s\"\nfrom = \"noreply@example.com\"\n[mailer.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"off\"\npool = 2\n",
        server.port
    ));
    let many: Vec<Mail> = (0..20).map(|_| mail()).collect();
    let all = futures_util::future::join_all(many.iter().map(|mail| courier.deliver(mail))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!(server.said().len() <= 2, "{}", server.said().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_a_mail_service_leads_to_what_is_done_next() {
    let (port, posted) = service().await;
    let courier = courier(&format!(
        "[mailer]\ntimeout = \"2s\"\n[mailer.http]\nurl = \"http://127.0.0.1:{port}/send?key=s3cret-key\"\ntoken = \"t0ken-long\"\n"
    ));
    for (to, expected) in [
        ("200", "delivered 200"),
        ("202", "delivered 202"),
        ("204", "delivered 204"),
        ("429-7", "again 429 after 7 s"),
        ("429-0", "again 429"),
        ("503-1000", "again 503 after 900 s"),
        ("503", "again 503"),
        ("500", "again 500"),
        ("408", "again 408"),
        ("200-hang", "again"),
        ("401", "stop 401"),
        ("403", "stop 403"),
        ("302-moved", "stop 302"),
        ("307-moved", "stop 307"),
        ("400", "refused 400"),
        ("404", "stop 404"),
        ("409-5", "later 409"),
        ("413", "refused 413"),
        ("422", "refused 422"),
    ] {
        let (what, detail) = said(courier.deliver(&mail_to(&format!("{to}@example.com"))).await);
        assert_eq!(what, expected, "{to}: {detail}");
        for secret in [PASSWORD, "s3cret-key", "t0ken-long", "@example.com", "\n"] {
            assert!(!detail.contains(secret), "{to}: {detail}");
        }
    }
    let (headers, body) = posted.lock().unwrap()[0].clone();
    assert_eq!(body, json!({"to": "200@example.com", "subject": "Ihr vorläufiges Passwort", "body": *mail().text}));
    assert_eq!(
        (&headers["idempotency-key"], &headers["authorization"]),
        (&"0f6e7c1a-5b7e".parse().unwrap(), &"Bearer t0ken-long".parse().unwrap())
    );
    assert_eq!(headers["content-type"], "application/json");
    let nobody = refusing_port();
    let address = nobody.local_addr().unwrap();
    let unreachable = self::courier(&format!("[mailer.http]\nurl = \"http://{address}/?key=s3cret-key\"\n"));
    let (what, detail) = said(unreachable.deliver(&mail()).await);
    assert!(what == "again" && detail.contains("cannot be reached") && !detail.contains("s3cret"), "{what}: {detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_of_any_characters_is_seen_in_the_mail_as_it_is_to_be_typed() {
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/config/templates");
    let config = config(&format!("[mailer]\ntemplates = {templates:?}\n"));
    let templates = Templates::load(&config.mailer).unwrap();
    let browser = Browser::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (language, password) in [("en", PASSWORD), ("de-AT", "a  b</p><script>x</script>&lt;&#x27;{{ password }}\\")] {
        let body = json!({"notificationId": "n", "jobId": "j", "org": "main", "userId": "u", "to": "a@example.com", "subject": "s",
            "body": "b", "temporaryPassword": password, "issuedAt": "2026-11-23T18:00:00Z"});
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("resetd-language".into(), lapin::types::AMQPValue::LongString(language.into()));
        let properties = lapin::BasicProperties::default().with_headers(headers);
        let (note, _) = notification::read(body.to_string().as_bytes(), &properties, jiff::Timestamp::now()).unwrap();
        let words = Words { password: Password::known(Zeroizing::new(password.into())), body: Zeroizing::default() };
        let mail = templates.mail(&note, &words).unwrap();
        let path = folder.path().join(format!("{language}.html"));
        std::fs::write(&path, mail.html.unwrap().as_bytes()).unwrap();
        let mut tab = browser.tab().await;
        tab.open(&format!("file://{}", path.display())).await;
        let seen = tab.until("#password", |text| !text.is_empty()).await;
        assert_eq!(seen, password, "{language}");
        assert_eq!(selected_by_a_click(&mut tab).await, password, "{language}");
        assert_eq!(tab.value("document.documentElement.lang").await, json!(&language[..2]));
        assert_eq!(tab.value("document.querySelectorAll('script').length").await, json!(0));
        for scheme in ["light", "dark"] {
            let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            tab.call("Emulation.setEmulatedMedia", media).await;
            let page = tab.value("getComputedStyle(document.querySelector('.password')).backgroundColor").await;
            let wanted = if scheme == "light" { "rgb(242, 244, 247)" } else { "rgb(20, 23, 28)" };
            assert_eq!(page, json!(wanted), "{scheme}");
            if let Ok(kept) = std::env::var("MAIL_PICTURES") {
                let shot = tab.call("Page.captureScreenshot", json!({})).await;
                let png =
                    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, shot["data"].as_str().unwrap());
                std::fs::write(Path::new(&kept).join(format!("{language}-{scheme}.png")), png.unwrap()).unwrap();
            }
        }
    }
}
