//! What comes from outside before a job does: files, variables, URLs and proxies, read as they are meant or refused by name.

use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::json;
use testkit::proxy::Proxy;

use crate::operator::process::{Process, Run, ends, ready, says};
use crate::world::{Asked, Plan, Scribe, World, by_job, eventually, unlimited};

/// A proxy that would take whatever is asked of it to nobody.
const NOBODY: &str = "http://127.0.0.1:9";
/// What may name a proxy.
const VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

fn behind_nobody(run: Run) -> Run {
    VARIABLES.iter().fold(run, |run, name| run.env(name, NOBODY))
}

fn address(base: &str) -> SocketAddr {
    base.strip_prefix("http://").unwrap().parse().unwrap()
}

/// The world's org by names that do not resolve, and a proxy to where it is.
async fn by_proxy(plan: Plan) -> (World, Proxy) {
    let mut world = plan.prepare().await;
    let base = world.orgs["main"].base.clone();
    let proxy = Proxy::to(address(&base)).await;
    world.config = world.config.replace(&base, "http://org.invalid");
    (world, proxy)
}

fn taken(_: &Asked) -> axum::response::Response {
    StatusCode::NO_CONTENT.into_response()
}

/// What `RESETD__HTTP__LISTEN` is found to be in this `.env`.
async fn listens(dotenv: &str, value: &str) {
    let run = Run::new(&["enqueue", "-"]);
    run.file(".env", dotenv);
    ends(run, 2, &[&format!("http.listen is {value:?}")]).await;
}

/// Two users, of whom the org knows one.
const TWO: &str = "userName,email\nu-1@example.com,a@b\nnobody@elsewhere.com,c@d\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_environment_is_not_used_but_warned_of() {
    let world = Plan::new().prepare().await;
    let worker = behind_nobody(Run::of(&world, &["--log", "json", "worker"])).start();
    ready(&worker.http().await).await;
    world.reset("main", "u-1", "job-1").await;
    assert_eq!(by_job(&world.recorded(1).await)["job-1"]["outcome"], "succeeded");
    let log = worker.stderr();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("http.proxy")).collect();
    assert_eq!(warned.len(), 1, "{log}");
    says(warned[0], &["\"WARN\"", "HTTPS_PROXY", "not used"]);
    let (code, out, said) = behind_nobody(Run::of(&world, &["check"])).end().await;
    assert_eq!(code, 0, "{out}{said}");
    says(&out, &["warn", "proxy", "HTTPS_PROXY", "http.proxy"]);
    let (code, out, said) = Run::of(&world, &["check"]).env("HTTPS_PROXY", "").end().await;
    assert_eq!(code, 0, "{out}{said}");
    assert!(!out.contains("HTTPS_PROXY"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_by_the_proxy_that_the_configuration_names_but_those_on_loopback() {
    let plan = Plan::new().org("main", unlimited(), "").org("near", unlimited(), "");
    let (world, proxy) = by_proxy(plan).await;
    let own = format!("[http]\nproxy = \"http://ann:s3cret%20pw@{}\"\n", proxy.address());
    // What the environment says is not asked where the configuration does.
    let worker = behind_nobody(Run::of(&world, &["--log", "json", "worker"]).config(&own)).start();
    ready(&worker.http().await).await;
    for org in ["main", "near"] {
        world.reset(org, "u-1", &format!("job-{org}")).await;
    }
    let ends = by_job(&world.recorded(2).await);
    assert!(ends.values().all(|end| end["outcome"] == "succeeded"), "{ends:?}");
    let asked = proxy.asked();
    assert!(asked.contains(&"POST http://org.invalid/oauth/token HTTP/1.1".to_owned()), "{asked:?}");
    assert!(asked.iter().all(|line| line.contains("http://org.invalid/")), "{asked:?}");
    let mut heads = proxy.heads().into_iter();
    let credentials = "proxy-authorization: basic yw5uonmzy3jldcbwdw==";
    assert!(heads.all(|head| head.to_lowercase().contains(credentials)), "{:?}", proxy.heads());
    assert_eq!((world.sim("main").stats().password_sets, world.sim("near").stats().password_sets), (1, 1));
    assert!(!worker.stderr().contains("s3cret"), "{}", worker.stderr());
    let (code, out, said) = Run::of(&world, &["check"]).config(&own).end().await;
    assert_eq!(code, 0, "{out}{said}");
    says(&out, &["http.proxy", &proxy.address().to_string()]);
    assert!(!out.contains("s3cret"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environments_proxy_is_used_where_the_configuration_says_so() {
    let (world, proxy) = by_proxy(Plan::new()).await;
    let url = format!("http://{}", proxy.address());
    let env = |run: Run| run.config("[http]\nproxy = \"env\"\n").env("HTTP_PROXY", &url).env("HTTPS_PROXY", &url);
    let (code, out, said) = env(Run::of(&world, &["check"])).end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(!proxy.asked().is_empty());
    // By TLS it is a tunnel to a name that only the proxy can know.
    let tls = world.config.replace("http://org.invalid", "https://org.invalid");
    let before = proxy.asked().len();
    let (code, out, _) = env(Run::of(&world, &["check"]).config(&tls)).end().await;
    assert_eq!(code, 1, "{out}");
    let asked = proxy.asked().split_off(before);
    assert!(!asked.is_empty() && asked.iter().all(|line| line == "CONNECT org.invalid:443 HTTP/1.1"), "{asked:?}");
    // Not for whom the environment excepts.
    let before = proxy.asked().len();
    let (code, out, _) = env(Run::of(&world, &["check"])).env("NO_PROXY", ".invalid").end().await;
    assert_eq!((code, proxy.asked().len()), (1, before), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_never_uses_a_proxy() {
    let world = Plan::new().prepare().await;
    let url = &world.amqp_url;
    let run = behind_nobody(Run::new(&["demo"]).env("RESETD__AMQP__URL", url).env("RESETD__HTTP__PROXY", NOBODY));
    let mut demo = run.start();
    eventually("the demo ends", async || demo.has_ended()).await;
    assert_eq!(demo.ended().await, 0, "{}{}", demo.stdout(), demo.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_to_a_service_go_by_the_proxy_too() {
    let service = Scribe::answering(taken).await;
    let world = service.prepare(Plan::new()).await;
    let base = world.config.split('"').find(|part| part.ends_with("/oauth/token")).unwrap();
    let proxy = Proxy::to(address(base.strip_suffix("/oauth/token").unwrap())).await;
    let own = format!(
        "[http]\nproxy = \"http://{}\"\n[mailer]\nenabled = true\n[mailer.http]\nurl = \"http://mail.invalid/send\"\n",
        proxy.address()
    );
    crate::world::declare(&world.connection, &resetd::amqp::names::Names::new(&world.prefix, "main")).await;
    let note = json!({
        "notificationId": "note-1", "jobId": "job-1", "org": "main", "userId": "u-1", "to": "u-1@example.com",
        "subject": "s", "body": "Your temporary password is: pw.", "temporaryPassword": "pw",
        "issuedAt": jiff::Timestamp::now().to_string(),
    });
    crate::mails::mailer::notify(&world, &note, lapin::BasicProperties::default()).await;
    let _mailer: Process = Run::of(&world, &["--log", "json", "mailer"]).config(&own).start();
    eventually("the mail came", async || (!service.asked().is_empty()).then_some(())).await;
    assert_eq!(proxy.asked(), ["POST http://mail.invalid/send HTTP/1.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_none_is_refused_and_its_password_not_repeated() {
    let world = Plan::new().prepare().await;
    for url in ["ftp://ann:s3cret@proxy:1", "proxy:3128", "http://", "socks5://proxy", "http://proxy/path"] {
        let run = Run::of(&world, &["worker"]).config(&format!("[http]\nproxy = {url:?}\n"));
        let (code, _, said) = run.end().await;
        assert_eq!(code, 2, "{url}: {said}");
        says(&said, &["http.proxy", "http://host:port", "\"env\""]);
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_url_that_ends_in_a_slash_means_the_vhost_of_that_name() {
    let world = Plan::new().start().await;
    let url = world.amqp_url.strip_suffix("%2f").unwrap();
    let run = Run::of(&world, &["enqueue", "-"]).config(&format!("[amqp]\nurl = {url:?}\n"));
    let (code, out, said) = run.stdin("userId,email\nu-1,a@b\n").end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    says(&out, &["1 jobs queued"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_env_file_is_read_as_it_is_meant() {
    for (written, value) in [
        ("pa$word", "pa$word"),
        ("pa$$word$", "pa$$word$"),
        ("'pa$HOME${X}'", "pa$HOME${X}"),
        ("\"pa$word\"", "pa$word"),
        ("\"pa\\$word\"", "pa$word"),
        ("pa#word # why", "pa#word"),
    ] {
        listens(&format!("# one\nRESETD__HTTP__LISTEN={written}\n"), value).await;
        listens(&format!("\u{feff}RESETD__HTTP__LISTEN={written}\r\n"), value).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_env_file_that_can_mean_two_things_is_refused_with_its_line() {
    for line in ["export X=${SECRET}", "X=s3cret$HOME", "X=s3cret$A", "X=s3cret more", "s3cret", "X='s3cret"] {
        let run = Run::new(&["enqueue", "-"]).env("HOME", "/s3cret");
        run.file(".env", &format!("\u{feff}# one\nA=1\n\n{line}\nB=2\n"));
        let (code, out, said) = run.end().await;
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {said}");
        says(&said, &[".env, line 4: "]);
        assert!(!said.contains("s3cret"), "{line}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_reads_what_enqueue_says_ends_nothing() {
    let world = Plan::new().start().await;
    let one = "userId,email\nu-9,a@b\n";
    for arguments in [vec!["enqueue", "-"], vec!["enqueue", "-", "--batch", "b"], vec!["enqueue", "-", "--dry-run"]] {
        let (code, _, said) = Run::of(&world, &arguments).stdin(one).unread().end().await;
        assert_eq!((code, said.as_str()), (0, ""), "{arguments:?}");
    }
    let arguments = ["enqueue", "two.csv", "--batch", "two", "--wait", "--failed", "failed.csv"];
    let run = Run::of(&world, &arguments).unread();
    run.file("two.csv", TWO);
    let failed = run.file("failed.csv", "");
    let mut process = run.start();
    assert_eq!(process.ended().await, 1, "one of them failed: {}", process.stderr());
    says(&process.stderr(), &["1 jobs were given up"]);
    says(&std::fs::read_to_string(failed).unwrap(), &["nobody@elsewhere.com,c@d,not_found"]);
    for arguments in [["batch", "b", "--once"], ["batch", "b", "--json"]] {
        let (code, _, said) = Run::of(&world, &arguments).unread().end().await;
        assert_eq!((code, said.as_str()), (0, ""), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_that_is_not_closed_is_an_error_with_its_line_and_nothing_is_sent() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap(); // whatever is sent stays in the queue
    let csv =
        "userId,email,title\r\n\r\nok--1,a@example.com,\"Agent\r\nu-2,b@example.com,Agent\r\nu-3,c@example.com,\r\n";
    let run = Run::of(&world, &["enqueue", "users.csv"]);
    run.file("users.csv", csv);
    let (code, out, said) = run.end().await;
    assert_eq!((code, out.as_str()), (1, ""), "{said}");
    says(&said, &["line 3: ", "quote", "nothing was sent"]);
    assert!(!said.contains("b@example.com"), "{said}");
    assert_eq!(world.depth("resets.main.bulk").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_failed_are_never_written_over_the_file_that_was_sent() {
    let world = Plan::new().start().await;
    for by in ["same", "link", "hard", "stdin"] {
        let input = if by == "stdin" { "/dev/stdin" } else { "two.csv" };
        let failed = if ["same", "stdin"].contains(&by) { "./two.csv" } else { "failed.csv" };
        let run = Run::of(&world, &["enqueue", input, "--wait", "--failed", failed]);
        let file = run.file("two.csv", TWO);
        let other = file.with_file_name("failed.csv");
        let run = match by {
            "link" => {
                std::os::unix::fs::symlink(&file, &other).unwrap();
                run
            }
            "hard" => {
                std::fs::hard_link(&file, &other).unwrap();
                run
            }
            "stdin" => run.stdin_of(&file),
            _ => run,
        };
        let mut process = run.start();
        let code = process.ended().await;
        assert_eq!((code, process.stdout().as_str()), (2, ""), "{by}: {}", process.stderr());
        says(&process.stderr(), &["--failed", "the file that is sent", "another"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), TWO, "{by}");
    }
    assert_eq!(world.main().stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_has_passed_is_refused_before_anything_is_sent() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let csv = "userId,email\nu-1,a@b\n";
    for arguments in
        [vec!["--not-after", "2020-01-01T00:00:00Z"], vec!["--dry-run", "--not-after", "2020-01-01T00:00:00Z"]]
    {
        let run = Run::of(&world, &[&["enqueue", "-"], &arguments[..]].concat()).stdin(csv);
        ends(run, 2, &["--not-after is 2020-01-01T00:00:00Z", "later than now"]).await;
    }
    let far = ["enqueue", "-", "--not-after", "9999-12-31T23:59:59Z"];
    let (code, out, said) = Run::of(&world, &far).stdin(csv).end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert_eq!(world.drained("resets.main.bulk").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_moments_lie_as_far_ahead_as_can_be_written_is_done() {
    let world = Plan::new().start().await;
    let text = crate::world::text;
    for (n, (name, moment)) in [
        ("not-after", "9999-12-31T23:59:59Z"),
        ("not-before", "2026-01-01T00:00:00.123456789012Z"),
        ("not-after", "9999-12-31T23:59:59.999999999999-23:59"),
    ]
    .into_iter()
    .enumerate()
    {
        let properties = crate::world::with_header(crate::world::named(&format!("job-{n}")), name, text(moment));
        let body = crate::world::reset_body(&format!("u-{n}")).to_string();
        world.publish("main", body.as_bytes(), properties).await;
    }
    let properties =
        crate::world::with_header(crate::world::named("bad"), "not-after", text("2999-01-01T00:00:00+25:00"));
    world.publish("main", crate::world::reset_body("u-9").to_string().as_bytes(), properties).await;
    let ends = by_job(&world.recorded(4).await);
    for (job, end) in &ends {
        let wanted = if job == "bad" { json!("invalid_job") } else { json!(null) };
        assert_eq!(end["reason"], wanted, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_user_whose_id_is_written_in_two_cases_never_run_at_once() {
    let world = Plan::new().org("main", crate::world::slow(), "").start().await;
    for n in 0..6 {
        let user = if n % 2 == 0 { "0f6e7c1a-aaaa" } else { "0F6E7C1A-AAAA" };
        world.reset("main", user, &format!("job-{n}")).await;
    }
    let ends = by_job(&world.recorded(6).await);
    assert!(ends.values().all(|end| end["outcome"] == "succeeded"), "{ends:?}");
    assert_eq!(world.main().stats().peak_in_flight, 1);
}
