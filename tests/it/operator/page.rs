//! The page and its data: what they show, to whom, and that whoever looks on changes nothing and holds nothing up.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lapin::options::BasicPublishOptions;
use resetd::domain::batch::Announced;
use resetd::domain::job::{JobId, Lane};
use resetd::domain::outcome::{Outcome, OutcomeKind, PasswordSet, Reason};
use resetd::domain::user::UserId;
use resetd::wire;
use serde_json::{Value, json};

use crate::browser::{Browser, Tab};
use crate::operator::process::{Process, Run, role_is};
use crate::world::{Plan, World, eventually, fault, named, reset_body, text, unlimited, with_header};

const TOKEN: &str = "PAGE7c31f8d20f9e2b84a6b3VALd65a1c3";

async fn state(http: &str) -> Value {
    testkit::http::get(format!("{http}/state")).await.unwrap().json().await.unwrap()
}

/// What `/state` says of the org `main`, once that is as wanted.
async fn shown(http: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let main = state(http).await["orgs"]["main"].clone();
        wanted(&main).then_some(main)
    })
    .await
}

/// Seven jobs, of which four end well; one is replayed after it failed, and then does too.
async fn a_little_of_everything(world: &World) {
    world.main().add_fault(fault("status=404,always,user=nobody"));
    world.main().add_fault(fault("status=404,next=1,user=late"));
    for (key, user) in
        [("main", "u-1"), ("main", "u-2"), ("main.bulk", "u-3"), ("main.bulk", "nobody"), ("main", "late")]
    {
        world.reset(key, user, &format!("job-{user}")).await;
    }
    world.publish("main.bulk", br#"{"userId":"x","password":true}"#, named("job-x")).await;
    world.recorded(6).await;
    world.reset("main", "late", "job-late").await;
}

/// The same from every worker, whoever did the jobs.
fn what_became_of_them(main: &Value) -> Value {
    let sum = |kind: usize| {
        main["minutes"].as_array().unwrap().iter().map(|minute| minute[kind].as_u64().unwrap()).sum::<u64>()
    };
    json!({"minutes": [sum(0), sum(1), sum(2)], "failures": main["failures"], "latest": main["latest"]})
}

/// The next event's data; `None` where the stream has ended.
async fn next_event(stream: &mut reqwest::Response, seen: &mut String) -> Option<Value> {
    loop {
        if let Some((event, rest)) = seen.split_once("\n\n") {
            let (event, rest) = (event.to_owned(), rest.to_owned());
            *seen = rest;
            match event.strip_prefix("data: ") {
                Some(data) => return Some(serde_json::from_str(data).unwrap()),
                None => continue, // a comment that keeps it alive
            }
        }
        seen.push_str(std::str::from_utf8(&stream.chunk().await.ok()??).unwrap());
    }
}

/// Fills in the form that asks for the token.
async fn sign_in(tab: &mut Tab) {
    tab.until("button", |text| text == "Show").await;
    let fill = format!("document.querySelector('input').value = {TOKEN:?}; document.querySelector('button').click()");
    tab.value(&fill).await;
}

/// A phone and a desk, light and dark: everything can be read without scrolling sideways.
async fn fits_everywhere(tab: &mut Tab) {
    for scheme in ["light", "dark"] {
        tab.scheme(scheme).await;
        let ground = tab.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)").await;
        let bright = ground[0].as_u64().unwrap() > 128;
        assert_eq!(bright, scheme == "light", "{scheme}: {ground}");
        for width in [390, 1200] {
            tab.size(width, 844).await;
            let wide = tab.value("document.documentElement.scrollWidth").await.as_u64().unwrap();
            assert!(wide <= width.into(), "{scheme}, {width} wide: the page is {wide} wide");
        }
    }
}

/// What a worker before this one would have left in the stream: jobs of the last hour, some of them failed.
async fn an_hour_of_history(world: &World) {
    let channel = world.channel().await;
    let exchange = world.named("outcomes");
    let now = Timestamp::now();
    let options = BasicPublishOptions::default();
    let announced =
        Announced { lane: Lane::Bulk, jobs: 14_000, at: now - SignedDuration::from_mins(56), not_before: None };
    let (body, properties) = wire::batch::announcement("main", "onboarding-november", &announced);
    let sent = channel.basic_publish(exchange.as_str().into(), "main.batch".into(), options, &body, properties);
    let mut confirms = vec![sent.await.unwrap()];
    for minute in (2..55_i64).rev() {
        let jobs = if (20..24).contains(&minute) { 60 } else { 230 + (minute * 37) % 60 };
        for n in 0..jobs {
            let failed = n % 97 == 13;
            let user = format!("{:08x}-1f00-4c2e-9d3b-{:012x}", (minute * 7919 + n) * 104_729 % 0xffff_ffff, n * 31);
            let outcome = Outcome {
                job: JobId::new(format!("onboarding-november/{user}")),
                org: "main".into(),
                lane: Lane::Bulk,
                user: UserId::parse(&user).ok(),
                batch: Some("onboarding-november".into()),
                asked_at: None,
                kind: if failed { OutcomeKind::Failed } else { OutcomeKind::Succeeded },
                reason: failed.then_some(if minute % 5 == 0 { Reason::Rejected } else { Reason::NotFound }),
                status: Some(if failed { 404 } else { 200 }),
                attempts: 1,
                password_set: if failed { PasswordSet::No } else { PasswordSet::Yes },
                detail: None,
                finished_at: now - SignedDuration::from_millis(minute * 60_000 + n * 60_000 / jobs),
            };
            let (body, properties) = wire::outcome::record(&outcome);
            let key = format!("main.{}", outcome.kind.as_str());
            let sent = channel.basic_publish(
                exchange.as_str().into(),
                key.as_str().into(),
                BasicPublishOptions::default(),
                &body,
                properties,
            );
            confirms.push(sent.await.unwrap());
        }
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_tells_the_same_of_what_became_of_the_jobs_before_and_after_a_takeover() {
    let world = Plan::new().config("[retry]\nmax_attempts = 1").prepare().await;
    let (mut first, at_first) = Process::worker(&world).await;
    a_little_of_everything(&world).await;
    let open = json!([
        {"reason": "no_address", "message": "The job names nobody to notify and no fallback address is configured", "jobs": 1, "who": ["x"]},
        {"reason": "not_found", "message": "The org knows no such user", "jobs": 1, "who": ["nobody"]},
    ]);
    let main = shown(&at_first, "all has ended", |main| {
        let nothing_in_hand = main["queues"]["interactive"]["inFlight"] == 0 && main["queues"]["bulk"]["inFlight"] == 0;
        main["failures"] == open && main["queues"]["dead"] == 3 && nothing_in_hand
    })
    .await;
    let told = what_became_of_them(&main);
    assert_eq!(told["minutes"], json!([4, 3, 0]));
    let latest = main["latest"].as_array().unwrap();
    assert_eq!(latest.len(), 7);
    assert_eq!(latest[0]["jobId"], "job-late");
    assert_eq!(
        (&latest[0]["outcome"], &latest[0]["userId"], &latest[0]["status"]),
        (&json!("succeeded"), &json!("late"), &json!(200))
    );
    assert!(latest.iter().any(|job| job["reason"] == "no_address" && job["lane"] == "bulk"), "{latest:?}");
    assert_eq!((&main["role"], &main["leader"]["here"]), (&json!("active"), &json!(true)));
    assert_eq!(main["quota"]["configured"], 60_000);
    assert!(main["quota"]["spent"].as_u64().unwrap() >= 6, "{main}");
    assert_eq!(main["queues"]["interactive"], json!({"name": world.named("resets.main"), "ready": 0, "inFlight": 0}));
    assert_eq!(
        (&main["queues"]["delayed"], &main["breaker"], &main["secondsLeft"]),
        (&json!(0), &Value::Null, &Value::Null)
    );
    assert!(!main.to_string().contains('@'), "no address: {main}");

    let mut second = Process::worker_by(&world, &world.amqp_url);
    let at_second = second.http().await;
    role_is(&at_second, "standby").await;
    let main = shown(&at_second, "it has read all of it", |main| what_became_of_them(main) == told).await;
    assert_eq!((&main["leader"]["here"], &main["quota"]), (&json!(false), &Value::Null));
    let holder = format!("process {}", first.id());
    assert!(main["leader"]["name"].as_str().unwrap().ends_with(&holder), "{main}");
    assert!(main["statusLine"]["text"].as_str().unwrap().contains(&holder), "{main}");
    assert_eq!(main["queues"]["dead"], 3);

    assert_eq!(first.terminated().await.0, 0);
    role_is(&at_second, "active").await;
    let main = shown(&at_second, "it works", |main| main["leader"]["here"] == true).await;
    assert_eq!(what_became_of_them(&main), told, "the records of the one before are not told twice");
    assert_eq!(second.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_its_data_are_for_those_who_know_the_token_and_health_is_for_all() {
    let mut world = Plan::new().config(&format!("[http]\ntoken = {TOKEN:?}")).start().await;
    let http = world.worker().http.clone();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let get = |path: &str| client.get(format!("{http}{path}"));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(path).send().await.unwrap().status(), 200, "{path}");
    }
    for path in ["/", "/state", "/events"] {
        for request in [
            get(path),
            get(path).bearer_auth(TOKEN.replace('7', "8")),
            get(path).header("cookie", format!("resetd_page_{}={TOKEN}", http.rsplit_once(':').unwrap().1)),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!((answer.status().as_u16(), path), (401, path));
            assert_eq!(answer.headers()["cache-control"], "no-store");
            let body = answer.text().await.unwrap();
            assert!(!body.contains("\"orgs\"") && !body.contains("EventSource"), "{body}");
        }
        assert_eq!(get(path).bearer_auth(TOKEN).send().await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(get(&format!("/?token={TOKEN}")).send().await.unwrap().status(), 401);
    // A browser: by the form; then by its cookie alone.
    let form = client.post(format!("{http}/")).header("content-type", "application/x-www-form-urlencoded");
    for request in [form.body(format!("token={TOKEN}"))] {
        let entered = request.send().await.unwrap();
        assert_eq!((entered.status().as_u16(), &entered.headers()["location"]), (303, &"/".parse().unwrap()));
        let set = entered.headers()["set-cookie"].to_str().unwrap();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains(TOKEN), "{set}");
        let cookie = set.split(';').next().unwrap();
        for path in ["/", "/state"] {
            assert_eq!(get(path).header("cookie", cookie).send().await.unwrap().status(), 200, "{path}");
        }
    }
    world.stop_worker().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_others_can_reach_is_refused_without_a_token_and_never_writes_it() {
    let world = Plan::new().prepare().await;
    let everywhere = "[http]\nlisten = \"0.0.0.0:0\"";
    let (code, out, err) = Run::of(&world, &["worker"]).config(everywhere).end().await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for part in ["http.token is not set", "http.listen is 0.0.0.0:0", "http.token_file"] {
        assert!(err.contains(part), "{part:?} is not in: {err}");
    }
    let run = Run::of(&world, &["--log", "json", "worker"]).config(&format!("[http]\ntoken = {TOKEN:?}"));
    let mut worker = run.env("RUST_LOG", "trace").start();
    let http = worker.http().await;
    let form = testkit::http::client().post(&http).header("content-type", "application/x-www-form-urlencoded");
    let entered = form.body(format!("token={TOKEN}")).send().await.unwrap();
    assert_eq!(entered.status(), 401, "a client without a jar for cookies is led to the form");
    let guessed = testkit::http::client().get(format!("{http}/state")).bearer_auth(format!("{TOKEN}x"));
    assert_eq!(guessed.send().await.unwrap().status(), 401);
    assert_eq!(
        testkit::http::client().get(format!("{http}/state")).bearer_auth(TOKEN).send().await.unwrap().status(),
        200
    );
    assert_eq!(worker.terminated().await.0, 0);
    for disguise in crate::operator::ops::disguises(TOKEN) {
        assert!(!worker.stderr().contains(&disguise), "{disguise} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_sealed_and_without_a_token_nobody_reaches_it_by_a_name() {
    let world = Plan::new().start().await;
    let http = &world.worker().http;
    let answer = testkit::http::get(format!("{http}/")).await.unwrap();
    let headers = answer.headers().clone();
    let policy = headers["content-security-policy"].to_str().unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(headers[name], value);
    }
    for path in ["/", "/state", "/events"] {
        let named = testkit::http::client().get(format!("{http}{path}")).header("host", "rebound.example:9464");
        assert_eq!(named.send().await.unwrap().status(), 421, "{path}");
    }
    for method in [reqwest::Method::PUT, reqwest::Method::DELETE, reqwest::Method::POST] {
        let asked = testkit::http::client().request(method.clone(), format!("{http}/state"));
        assert_eq!(asked.send().await.unwrap().status(), 405, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_at_once_and_with_each_change_and_end_with_the_process_without_holding_it() {
    let world = Plan::new().prepare().await;
    let (mut worker, http) = Process::worker(&world).await;
    role_is(&http, "active").await;
    let mut stream = testkit::http::get(format!("{http}/events")).await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut seen = String::new();
    let asked = Instant::now();
    let first = next_event(&mut stream, &mut seen).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(first["orgs"]["main"]["role"], "active");
    world.reset("main", "u-1", "job-1").await;
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Value| event["orgs"]["main"]["latest"][0]["jobId"] != "job-1") {
        events.push(next_event(&mut stream, &mut seen).await.unwrap());
    }
    let at = |event: &Value| event["at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    for pair in events.windows(2) {
        let apart = at(&pair[1]).duration_since(at(&pair[0]));
        assert!(apart >= SignedDuration::from_millis(900), "{apart:?}");
    }
    // Left open, by this and by one that does not read.
    let _idle = testkit::http::get(format!("{http}/events")).await.unwrap();
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(10), "{took:?}");
    while next_event(&mut stream, &mut seen).await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_page_is_open_the_active_worker_shows_what_others_write_to_the_stream_too() {
    let world = Plan::new().start().await;
    let http = &world.worker().http;
    let announced = Announced { lane: Lane::Bulk, jobs: 3, at: Timestamp::now(), not_before: None };
    let (body, properties) = wire::batch::announcement("main", "night-shift", &announced);
    let (channel, exchange) = (world.channel().await, world.named("outcomes"));
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.as_str().into(), "main.batch".into(), options, &body, properties);
    assert_eq!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
    let in_batch = with_header(named("night-shift/u-1"), "batch", text("night-shift"));
    world.publish("main.bulk", reset_body("u-1").to_string().as_bytes(), in_batch).await;
    let mut stream = testkit::http::get(format!("{http}/events")).await.unwrap();
    let mut seen = String::new();
    let batch = loop {
        let event = next_event(&mut stream, &mut seen).await.expect("it goes on");
        let batch = event["orgs"]["main"]["batches"][0].clone();
        if batch["jobs"] == 3 && batch["done"] == 1 && event["orgs"]["main"]["queues"]["dead"] == 0 {
            break batch;
        }
    };
    assert_eq!((&batch["name"], &batch["failed"]), (&json!("night-shift"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_browser_the_numbers_move_while_200_jobs_run_and_nothing_is_asked_of_anybody_else() {
    // 20 a second: 10 s in all.
    let plan =
        Plan::new().config(&format!("[http]\ntoken = {TOKEN:?}")).org("main", unlimited(), "rate_per_minute = 1200");
    let (mut world, browser) = tokio::join!(plan.start(), Browser::start());
    let http = world.worker().http.clone();
    let mut tab = browser.tab().await;
    tab.open(&format!("{http}/")).await;
    sign_in(&mut tab).await;
    tab.until(".says", |says| says == "Idle: no job waits").await;
    // That the form came with a 401, and has no field for a user's name.
    let of_the_form = tab.complaints().len();
    assert_eq!(tab.value("location.href").await, format!("{http}/"), "the token is not in the address");
    assert_eq!(tab.value("document.cookie").await, "", "no script reads the cookie");

    world.main().add_fault(fault("status=404,always,user=main-user-7"));
    world.reset_many("main", 200).await;
    tab.until(".says", |says| says.starts_with("Moving: ")).await;
    let mut spent: Vec<String> = Vec::new();
    while spent.len() < 4 {
        let last = spent.last().cloned().unwrap_or_default();
        spent.push(tab.until("[data-f=spent]", |now| now != last && now != "0").await);
    }
    let numbers: Vec<u32> = spent.iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(tab.text("[data-f=bulk]").await.contains("in flight"));
    tab.until("[data-f=spent]", |spent| spent.parse::<u32>().is_ok_and(|spent| spent >= 100)).await;
    fits_everywhere(&mut tab).await;
    tab.until(".says", |says| says == "Idle: no job waits").await;
    tab.until("[data-f=dead]", |dead| dead == "1").await;
    assert_eq!(tab.text("[data-f=failures] td").await, "not_found\nThe org knows no such user\nmain-user-7");
    let bars = "[...document.querySelectorAll('rect.ok')].filter((bar) => bar.getAttribute('height') > 0).length";
    assert!(tab.value(bars).await.as_u64().unwrap() >= 1);
    assert_eq!(tab.value("document.querySelectorAll('.last tbody tr').length").await, 15);

    let asked = tab.asked();
    assert!(asked.iter().any(|url| *url == format!("{http}/events")), "{asked:?}");
    for url in &asked {
        assert!(url.starts_with(&format!("{http}/")) || url == "data:,", "{url}");
    }
    assert_eq!(tab.complaints()[of_the_form..], Vec::<String>::new());
    // The worker ends: the page says so, and that alone is an error on its console.
    world.stop_worker().await.unwrap();
    drop(browser);
}

/// `make screenshot`: the page in each of its states, as `target/page/*.png`; the first of them is the README's `docs/page.png`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it makes pictures"]
async fn pictures_of_the_page() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page");
    std::fs::create_dir_all(&folder).unwrap();
    let browser = Browser::start().await;
    let mut tab = browser.tab().await;
    let pictures = async |tab: &mut Tab, name: &str, dark: bool, narrow: bool| {
        for (of, scheme, width, height) in
            [("", "light", 1120, 700), ("-dark", "dark", 1120, 700), ("-phone", "light", 390, 844)]
        {
            if (of == "-dark" && !dark) || (of == "-phone" && !narrow) {
                continue;
            }
            tab.scheme(scheme).await;
            tab.size(width, height).await;
            tab.value("new Promise((done) => setTimeout(done, 300))").await;
            tab.picture(&folder.join(format!("{name}{of}.png"))).await;
        }
    };

    let keys = "rate_per_minute = 300";
    let mut world = Plan::new().org("main", unlimited(), keys).start().await;
    tab.size(1120, 700).await;
    tab.open(&world.worker().http).await;
    tab.until(".says", |says| says.starts_with("Idle")).await;
    pictures(&mut tab, "idle", false, false).await;
    world.stop_worker().await.unwrap();
    an_hour_of_history(&world).await;
    world.start_worker().await;
    world.ready().await;
    for user in ["main-user-9", "main-user-33", "main-user-48"] {
        world.main().add_fault(fault(&format!("status=404,always,user={user}")));
    }
    world.main().add_fault(fault("status=400,scim_type=invalidValue,always,user=main-user-52"));
    world.reset_many("main", 700).await;
    tab.open(&world.worker().http).await;
    tab.until("[data-f=spent]", |spent| spent.parse::<u32>().is_ok_and(|spent| spent > 270)).await;
    pictures(&mut tab, "page", true, true).await;
    std::fs::copy(folder.join("page.png"), concat!(env!("CARGO_MANIFEST_DIR"), "/docs/page.png")).unwrap();

    world.main().add_fault(fault("status=429,retry_after=40,next=1"));
    tab.until(".says", |says| says.starts_with("Paused")).await;
    pictures(&mut tab, "paused", false, true).await;

    let other = Process::worker_by(&world, &world.amqp_url);
    let at_other = other.http().await;
    role_is(&at_other, "standby").await;
    tab.open(&at_other).await;
    tab.until(".says", |says| says.contains("process")).await;
    tab.until("[data-f=backlog]", |backlog| backlog != "\u{2013}").await;
    pictures(&mut tab, "standby", false, true).await;
    drop((other, world));

    let world = Plan::new().org("main", unlimited(), keys).org("west", unlimited(), keys).start().await;
    world.main().add_fault(fault("status=403,code=missing.permissions,always"));
    world.sim("west").add_fault(fault("status=503,always"));
    world.reset_many("main", 30).await;
    world.reset_many("west", 30).await;
    tab.open(&world.worker().http).await;
    tab.until(".says[data-state=stopped]", |says| says.starts_with("Stopped")).await;
    tab.until("[data-org=west] .says", |says| says.contains("breaker")).await;
    pictures(&mut tab, "halted", true, true).await;
}
