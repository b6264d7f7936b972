//! What each answer of the org does to a job, to the other jobs, and to the whole line.

use std::time::{Duration, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::{Value, json};
use sim::{Fault, Settings};

use crate::world::{
    LIMIT, Plan, Tap, World, by_id, by_job, eventually, fault, locked_out, named, reset_body, text, unlimited,
    with_header,
};

/// What is to become of a job: outcome, reason, status, attempts, passwordSet.
type Fate = (&'static str, Option<&'static str>, Option<u16>, u32, &'static str);

/// A world whose rows are looked at one after the other, each with a user of its own.
struct Rows {
    world: World,
    outcomes: Tap,
    dead: Tap,
    emails: Tap,
}

impl Rows {
    async fn of(plan: Plan) -> Self {
        let world = plan.start().await;
        Self {
            outcomes: world.outcomes().await,
            dead: world.tap("resets.main.dead").await,
            emails: world.tap("emails").await,
            world,
        }
    }

    /// One job under these faults. What ends well leaves a mail that logs in, what does not a letter that says the same as
    /// the outcome. Then one more job, under no fault, so that no row is part of another's run of failures.
    async fn check(&mut self, user: &str, faults: &[&str], fate: Fate) -> Value {
        for text in faults {
            self.world.main().add_fault(fault(&format!("{text},user={user}")));
        }
        let record = self.job(user, fate).await;
        self.world.main().clear_faults();
        self.job(&format!("{user}-after"), ("succeeded", None, Some(200), 1, "yes")).await;
        record
    }

    async fn job(&mut self, user: &str, fate: Fate) -> Value {
        let (outcome, reason, status, attempts, password_set) = fate;
        self.world.reset("main", user, user).await;
        let record = self.outcomes.next().await.json();
        let said =
            json!([record["outcome"], record["reason"], record["status"], record["attempts"], record["passwordSet"]]);
        assert_eq!(said, json!([outcome, reason, status, attempts, password_set]), "{record}");
        assert_eq!(record["jobId"], user);
        if reason.is_none() {
            let mail = self.emails.next().await;
            assert_eq!(locked_out(self.world.main(), &[mail]), Vec::<String>::new());
            return record;
        }
        let letter = self.dead.next().await;
        let header = |name: &str| letter.header(name).unwrap();
        assert_eq!(letter.id(), user);
        assert_eq!(header("resetd-reason"), reason.unwrap());
        assert_eq!(header("resetd-status"), status.map_or("null".into(), |status| status.to_string()));
        assert_eq!(header("resetd-attempts"), attempts.to_string());
        assert_eq!(header("resetd-password-set"), password_set);
        assert_eq!(record["detail"], header("resetd-detail"));
        record
    }
}

fn says(record: &Value, parts: &[&str]) {
    let detail = record["detail"].as_str().unwrap();
    for part in parts {
        assert!(detail.contains(part), "{part}: {detail}");
    }
}

/// When each user's password was set.
fn set_at(world: &World, org: &str, user: &str) -> Timestamp {
    let view = world.sim(org).user(user).unwrap();
    view.last_set_at.expect("it was set").parse().unwrap()
}

/// Throttles one job's first call, and publishes ten more in both lanes once the worker knows. Answers when the first was
/// published, when each password was set, and the outcome of the throttled one.
async fn throttled(
    org: &'static str,
    settings: Settings,
    config: &str,
    fault: Fault,
) -> (World, Timestamp, Vec<Timestamp>, Value) {
    let world = Plan::new().org(org, settings, "").config(config).start().await;
    let mut outcomes = world.outcomes().await;
    world.sim(org).add_fault(fault);
    let published = Timestamp::now();
    world.reset(org, "u-0", "job-0").await;
    // Metrics are of the whole process; no other test has an org of this name.
    let paused = format!("resetd_pauses_total{{org=\"{org}\"}} 1");
    eventually("the pause", async || world.metrics().await.contains(&paused).then_some(())).await;
    for n in 1..=10 {
        let lane = if n % 2 == 0 { "" } else { ".bulk" };
        world.reset(&format!("{org}{lane}"), &format!("u-{n}"), &format!("job-{n}")).await;
    }
    let records = by_job(&outcomes.take(11).await);
    let sets = (0..=10).map(|n| set_at(&world, org, &format!("u-{n}"))).collect();
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
    assert_eq!(world.sim(org).stats().calls, 12, "no call was made in vain");
    let first = records["job-0"].clone();
    (world, published, sets, first)
}

const PATIENT: &str = "[retry]\nbase = \"1ms\"\nmax = \"5ms\"";

/// Waits until `/readyz` says that the org is stopped, and answers why.
async fn stopped(world: &World, org: &str) -> String {
    eventually("processing halts", async || {
        let (status, said) = world.readyz().await;
        let row = &said["orgs"][org];
        (status == 503 && said["ready"] == false && row["role"] == "halted")
            .then(|| row["reason"].as_str().expect("it says why").to_owned())
    })
    .await
}

/// Stops the line by a fault, fixes it, and looks that it cost no job and no attempt.
async fn goes_on(fault: Value, parts: &[&str]) {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.main().add_fault(serde_json::from_value(fault).unwrap());
    for n in 0..10 {
        world.reset("main", &format!("u-{n}"), &format!("job-{n}")).await;
    }
    let why = stopped(&world, "main").await;
    for part in parts {
        assert!(why.contains(part), "{part}: {why}");
    }
    world.main().clear_faults();
    let calls = world.main().stats().calls;
    assert!(calls <= 20, "{calls} calls although the first ones told");
    for (job, record) in by_job(&outcomes.take(10).await) {
        let said = (&record["outcome"], &record["attempts"]);
        assert_eq!(said, (&json!("succeeded"), &json!(1)), "{job}: {record}");
    }
    world.ready().await;
    let active = json!({"ready": true, "orgs": {"main": {"role": "active", "reason": null, "ratePerMinute": 60_000}}});
    let mut ready = world.readyz().await.1;
    let leader = ready["orgs"]["main"].as_object_mut().unwrap().remove("leader").unwrap();
    assert_eq!((ready, &leader["here"]), (active, &json!(true)));
    assert_eq!(world.depth("resets.main.dead").await, 0);
    assert_eq!(world.main().stats().password_sets, 10);
}

/// Of thirty forbidden users at once four are dead-lettered; the others wait, and succeed once it is resolved.
async fn goes_on_after_forbidden_users() {
    let settings =
        Settings { latency: Duration::from_millis(300), faults: vec![fault("status=403,always")], ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    let channel = world.channel().await;
    for n in 0..30 {
        let user = format!("u-{n}");
        let body = reset_body(&user).to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&user)).await;
    }
    let why = stopped(&world, "main").await;
    assert!(why.contains("Forbidden, by a scripted fault"), "{why}");
    // The calls in flight when the line stopped are answered 403 too, and none is made any more.
    eventually("the calls in flight", async || {
        let stats = world.main().stats();
        (stats.by_status.get("403") == Some(&stats.calls)).then_some(())
    })
    .await;
    world.main().clear_faults();
    let records = by_job(&outcomes.take(30).await);
    let count = |outcome: &str| records.values().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((count("failed"), count("succeeded")), (4, 26));
    assert!(records.values().all(|record| record["attempts"] == 1), "{records:?}");
}

/// A job whose `not-after` is so far from now.
async fn until(world: &World, user: &str, from_now: SignedDuration) {
    let end = (Timestamp::now() + from_now).to_string();
    let properties = with_header(named(user), "not-after", text(&end));
    world.publish("main", reset_body(user).to_string().as_bytes(), properties).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_2xx_is_a_success() {
    let mut rows = Rows::of(Plan::new()).await;
    for status in [200_u16, 201, 202, 204] {
        let fault = format!("status={status},apply,next=1");
        let fate = ("succeeded", None, Some(status), 1, "yes");
        rows.check(&format!("u-{status}"), &[&fault], fate).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_a_dead_letter_with_the_words_of_the_org() {
    let mut rows = Rows::of(Plan::new()).await;
    let dead = |reason, status| ("failed", Some(reason), Some(status), 1, "no");
    let record = rows.check("u-404", &["status=404,body=scim,next=1"], dead("not_found", 404)).await;
    says(&record, &["Not Found, by a scripted fault"]);
    let record = rows.check("u-403", &["status=403,next=1"], dead("forbidden", 403)).await;
    says(&record, &["Forbidden, by a scripted fault"]);
    let record = rows.check("u-value", &["status=400,scim_type=invalidValue,next=1"], dead("rejected", 400)).await;
    says(&record, &["invalidValue", "Bad Request, by a scripted fault"]);
    let record = rows.check("u-code", &["status=400,code=bad.request.body,next=1"], dead("rejected", 400)).await;
    says(&record, &["bad.request.body", "Bad Request, by a scripted fault"]);
    for status in [410, 413, 415, 422, 451] {
        let fault = format!("status={status},next=1");
        rows.check(&format!("u-{status}"), &[&fault], dead("rejected", status)).await;
    }
    let record = rows.check("u-empty", &["status=400,body=none,next=1"], dead("rejected", 400)).await;
    says(&record, &["400"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whom_the_org_does_not_have_is_not_found() {
    let settings = Settings { users: Some(vec!["known".into()]), ..unlimited() };
    let mut rows = Rows::of(Plan::new().org("main", settings, "")).await;
    rows.job("ghost", ("failed", Some("not_found"), Some(404), 1, "no")).await;
    rows.job("known", ("succeeded", None, Some(200), 1, "yes")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_tried_again_and_given_up_after_max_attempts() {
    let mut rows = Rows::of(Plan::new()).await;
    let again = ("succeeded", None, Some(200), 2, "yes");
    for (user, fault) in [
        ("u-409", "status=409,next=1"),
        ("u-412", "status=412,next=1"),
        ("u-vers", "status=400,scim_type=invalidVers,next=1"),
        ("u-text", r#"status=400,body={"status":"400","detail":"Version mismatch: expected 3"},next=1"#),
    ] {
        rows.check(user, &[fault], again).await;
    }
    let spent = ("failed", Some("retries_exhausted"), Some(409), 5, "no");
    rows.check("u-always", &["status=409,always"], spent).await;
    assert_eq!(rows.world.main().stats().by_status["409"], 1 + 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_tried_again_and_given_up_after_max_attempts() {
    let mut rows = Rows::of(Plan::new()).await;
    let again = ("succeeded", None, Some(200), 2, "yes");
    for status in [408, 500, 502, 503, 504] {
        let fault = format!("status={status},next=1");
        rows.check(&format!("u-{status}"), &[&fault], again).await;
    }
    rows.check("u-cut", &["cut,next=1"], again).await;
    rows.check("u-four", &["status=500,next=4"], ("succeeded", None, Some(200), 5, "yes")).await;
    // In worlds of their own: so many faults of three users would open the breaker.
    let mut rows = Rows::of(Plan::new()).await;
    let spent = |status, set| ("failed", Some("retries_exhausted"), status, 5, set);
    rows.check("a-500", &["status=500,always"], spent(Some(500), "unknown")).await;
    rows.check("a-408", &["status=408,always"], spent(Some(408), "no")).await;
    let mut rows = Rows::of(Plan::new()).await;
    rows.check("a-cut", &["cut,always"], spent(None, "unknown")).await;
    // The last answer is a 404, and yet an earlier try may have set it.
    let unknown = ("failed", Some("not_found"), Some(404), 2, "unknown");
    rows.check("u-then-404", &["status=500,next=1", "status=404,next=1"], unknown).await;
    let rejected = ("failed", Some("rejected"), Some(400), 2, "no");
    rows.check("u-408-then-400", &["status=408,next=1", "status=400,next=1"], rejected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_attempts_is_what_the_configuration_says() {
    let mut rows = Rows::of(Plan::new().config("[retry]\nmax_attempts = 2")).await;
    let spent = ("failed", Some("retries_exhausted"), Some(500), 2, "unknown");
    rows.check("u-500", &["status=500,always"], spent).await;
    let mut rows = Rows::of(Plan::new().config("[retry]\nmax_attempts = 1")).await;
    rows.check("u-409", &["status=409,always"], ("failed", Some("retries_exhausted"), Some(409), 1, "no")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_answered_in_time_counts_and_leaves_the_password_unknown() {
    let plan = Plan::new().org("main", unlimited(), "request_timeout = \"1s\"").config("[retry]\nmax_attempts = 2");
    let mut rows = Rows::of(plan).await;
    let spent = ("failed", Some("retries_exhausted"), None, 2, "unknown");
    rows.check("u-hang", &["hang=30s,always"], spent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tries_of_a_job_send_the_same_password() {
    // The first call is carried out long after its caller gave it up, when the second one was already confirmed.
    let world = Plan::new().org("main", unlimited(), "request_timeout = \"1s\"").start().await;
    let mut emails = world.tap("emails").await;
    world.main().add_fault(fault("hang=4s,apply,apply_after=2500ms,next=1,user=u-1"));
    world.main().add_fault(fault("cut,apply,next=1,user=u-1"));
    world.main().add_fault(fault("status=500,apply,next=1,user=u-1"));
    world.reset("main", "u-1", "job-1").await;
    let mail = emails.next().await.json();
    let password = mail["temporaryPassword"].as_str().unwrap();
    assert!(world.main().logs_in("u-1", password));
    eventually("the late change", async || (world.main().user("u-1").unwrap().password_sets == 4).then_some(())).await;
    assert!(world.main().logs_in("u-1", password), "the late change must not lock the person out");
    assert_eq!(world.main().stats().calls, 4);
    assert_eq!(world.depth("emails").await, 0, "one mail for one job");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_holds_every_call_of_the_org_for_its_seconds_and_costs_no_attempt() {
    let fault = fault("status=429,retry_after=1,next=1");
    let (_world, published, sets, first) = throttled("throttled_s", unlimited(), "", fault).await;
    let wait = SignedDuration::from_secs(1);
    assert!(sets.iter().all(|at| at.duration_since(published) >= wait), "{published} {sets:?}");
    assert_eq!((&first["attempts"], &first["status"]), (&json!(1), &json!(200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_holds_every_call_of_the_org_until_its_date() {
    // A date has whole seconds: between 2 and 3 s ahead.
    let until = Timestamp::from_second((Timestamp::now() + 3.seconds()).as_second()).unwrap();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(until.as_second().cast_unsigned()));
    let fault = serde_json::from_value(json!({"status": 429, "retry_after": date, "next": 1})).unwrap();
    let (_world, _, sets, first) = throttled("throttled_date", unlimited(), "", fault).await;
    assert!(sets.iter().all(|at| *at >= until), "{until} {sets:?}");
    assert_eq!(first["attempts"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_without_retry_after_or_with_zero_holds_until_the_window_ends() {
    for (org, text) in [("throttled_reset", "status=429,next=1"), ("throttled_zero", "status=429,retry_after=0,next=1")]
    {
        // Beside a quota the sim says how long its window still lasts, in whole seconds.
        let settings = Settings { quota: 1000, window: Duration::from_secs(2), ..Settings::default() };
        let (world, published, sets, first) = throttled(org, settings, "", fault(text)).await;
        let second = sets.iter().min().unwrap();
        let first_call = world.sim(org).stats().first_call_ms.unwrap();
        let left = 2000 - first_call % 2000;
        let waited = second.duration_since(published).as_millis();
        assert!(waited >= i128::from(left), "{text}: {waited} ms of {left}");
        assert_eq!(first["attempts"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_retry_after_does_not_end_a_longer_pause() {
    // Both calls are in flight before either is answered.
    let settings = Settings { latency: Duration::from_millis(300), ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    world.main().add_fault(fault("status=429,retry_after=2,next=1,user=u-0"));
    world.main().add_fault(fault("status=429,retry_after=1,next=1,user=u-1"));
    let published = Timestamp::now();
    for n in 0..2 {
        world.reset("main", &format!("u-{n}"), &format!("job-{n}")).await;
    }
    let records = by_job(&outcomes.take(2).await);
    assert!(records.values().all(|record| record["attempts"] == 1), "{records:?}");
    for user in ["u-0", "u-1"] {
        let waited = set_at(&world, "main", user).duration_since(published);
        assert!(waited >= SignedDuration::from_secs(2), "{user}: {waited}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pause_of_one_org_is_no_other_orgs() {
    let world = Plan::new().org("north", unlimited(), "").org("south", unlimited(), "").start().await;
    let mut emails = world.tap("emails").await;
    world.sim("north").add_fault(fault("status=429,retry_after=300,always"));
    for n in 0..5 {
        world.reset("north", &format!("n-{n}"), &format!("north-{n}")).await;
    }
    eventually("the first call", async || (world.sim("north").stats().calls > 0).then_some(())).await;
    for n in 0..5 {
        world.reset("south", &format!("s-{n}"), &format!("south-{n}")).await;
    }
    let mails = emails.take(5).await;
    assert!(mails.iter().all(|mail| mail.json()["org"] == "south"));
    assert_eq!(locked_out(world.sim("south"), &mails), Vec::<String>::new());
    assert_eq!(world.sim("north").stats().password_sets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_retry_after_is_cut_to_after_max() {
    let fault = fault("status=429,retry_after=3600,next=1");
    let started = std::time::Instant::now();
    let (_world, published, sets, _) =
        throttled("throttled_long", unlimited(), "[retry]\nafter_max = \"1s\"", fault).await;
    let wait = SignedDuration::from_secs(1);
    assert!(sets.iter().all(|at| at.duration_since(published) >= wait), "{published} {sets:?}");
    assert!(started.elapsed() < LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_with_retry_after_holds_every_call_of_the_org_and_counts_as_an_attempt() {
    let fault = fault("status=503,retry_after=1,next=1");
    let (_world, published, sets, first) = throttled("unavailable", unlimited(), "", fault).await;
    let wait = SignedDuration::from_secs(1);
    assert!(sets.iter().all(|at| at.duration_since(published) >= wait), "{published} {sets:?}");
    assert_eq!((&first["attempts"], &first["passwordSet"]), (&json!(2), &json!("yes")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_with_retry_after_is_given_up_after_max_attempts_too() {
    let mut rows = Rows::of(Plan::new().config("[retry]\nmax_attempts = 2")).await;
    let spent = ("failed", Some("retries_exhausted"), Some(503), 2, "unknown");
    rows.check("u-503", &["status=503,retry_after=1,next=2"], spent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_without_any_wait_is_tried_again_after_a_backoff() {
    let mut rows = Rows::of(Plan::new()).await;
    let free = ("succeeded", None, Some(200), 1, "yes");
    rows.check("u-absent", &["status=429,next=3"], free).await;
    rows.check("u-zero", &["status=429,retry_after=0,next=3"], free).await;
    rows.check("u-odd", &["status=429,retry_after=soon,next=1"], free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_throttled_alone_is_never_given_up() {
    let mut rows = Rows::of(Plan::new().config(PATIENT)).await;
    let free = ("succeeded", None, Some(200), 1, "yes");
    rows.check("u-30", &["status=429,next=30"], free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_throttled_20_times_while_others_pass_is_given_up() {
    let world = Plan::new().config(PATIENT).start().await;
    let mut dead = world.tap("resets.main.dead").await;
    world.main().add_fault(fault("status=429,always,user=stuck"));
    world.reset("main", "stuck", "stuck").await;
    let letter = async { dead.next().await };
    let others = async {
        let mut emails = world.tap("emails").await;
        let channel = world.channel().await;
        for n in 0.. {
            let user = format!("u-{n}");
            let body = reset_body(&user).to_string();
            world.publish_on(&channel, "main", body.as_bytes(), named(&user)).await;
            emails.next().await;
        }
    };
    let letter = tokio::select! {
        letter = letter => letter,
        () = others => unreachable!("it goes on for ever"),
    };
    assert_eq!(letter.id(), "stuck");
    assert_eq!(letter.header("resetd-reason").unwrap(), "retries_exhausted");
    assert_eq!(letter.header("resetd-status").unwrap(), "429");
    assert_eq!(letter.header("resetd-attempts").unwrap(), "0");
    assert_eq!(letter.header("resetd-password-set").unwrap(), "no");
    assert!(world.main().stats().by_status["429"] >= 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_is_replaced_once_and_costs_no_attempt() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "job-1").await;
    outcomes.next().await;
    world.main().revoke_tokens();
    world.reset("main", "u-2", "job-2").await;
    let record = outcomes.next().await.json();
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("succeeded"), &json!(1)));
    let stats = world.main().stats();
    assert_eq!((stats.token_requests, stats.by_status["401"], stats.calls), (2, 1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_amid_64_jobs_is_replaced_once_for_all() {
    let settings = Settings { latency: Duration::from_millis(50), ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    world.main().add_fault(fault("revoke,next=1,user=u-31"));
    let channel = world.channel().await;
    for n in 0..64 {
        let user = format!("u-{n}");
        let body = reset_body(&user).to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&user)).await;
    }
    for (job, record) in by_job(&outcomes.take(64).await) {
        let said = (&record["outcome"], &record["attempts"]);
        assert_eq!(said, (&json!("succeeded"), &json!(1)), "{job}: {record}");
    }
    let stats = world.main().stats();
    assert_eq!(stats.password_sets, 64);
    assert!(stats.by_status["401"] >= 1);
    assert_eq!(stats.token_requests, 2, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_is_asked_for_however_many_jobs_wait() {
    let settings = Settings { latency: Duration::from_millis(200), ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut emails = world.tap("emails").await;
    let channel = world.channel().await;
    for n in 0..64 {
        let user = format!("u-{n}");
        let body = reset_body(&user).to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&user)).await;
    }
    let mails = emails.take(64).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let stats = world.main().stats();
    assert_eq!((stats.token_requests, stats.calls), (1, 64));
    assert!(stats.peak_in_flight > 1, "calls are made beside each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_used_in_the_last_60_seconds_of_its_life() {
    let settings = Settings { token_ttl: Duration::from_secs(61), ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "job-1").await;
    outcomes.next().await;
    let later = (Timestamp::now() + 1100.milliseconds()).to_string();
    let properties = with_header(named("job-2"), "not-before", text(&later));
    let body = reset_body("u-2").to_string();
    world.publish("main", body.as_bytes(), properties).await;
    outcomes.next().await;
    let stats = world.main().stats();
    assert_eq!((stats.token_requests, stats.calls), (2, 2));
}

/// It takes 15 s, since the line tries again so often: all of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_org_loses_nothing_and_goes_on_by_itself_once_it_is_resolved() {
    let refused = json!({"error": "invalid_client", "description": "client not found: demo", "error_description": "x"});
    tokio::join!(
        goes_on(
            json!({"status": 403, "code": "missing.permissions", "always": true}),
            &["missing.permissions", "directory:user:setPassword"],
        ),
        goes_on(
            json!({"target": "token", "status": 401, "always": true, "body": refused}),
            &["invalid_client: client not found: demo"],
        ),
        goes_on(json!({"status": 401, "always": true}), &["Unauthorized, by a scripted fault"],),
        goes_on_after_forbidden_users(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_code_that_says_the_client_lacks_a_right_halts_processing() {
    for code in ["missing.any.permissions", "not.authorized"] {
        let world = Plan::new().start().await;
        world.main().add_fault(fault(&format!("status=403,code={code},always")));
        world.reset("main", "u-1", "job-1").await;
        let why = stopped(&world, "main").await;
        assert!(why.contains(code), "{why}");
        assert_eq!(world.depth("resets.main.dead").await, 0);
        assert_eq!(world.main().stats().calls, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fifth_user_in_a_row_who_is_forbidden_halts_processing() {
    let world = Plan::new().config("[amqp]\nprefetch = 1").start().await;
    let mut dead = world.tap("resets.main.dead").await;
    world.main().add_fault(fault("status=403,always"));
    for n in 1..=8 {
        world.reset("main", &format!("u-{n}"), &format!("job-{n}")).await;
    }
    let letters = by_id(dead.take(4).await);
    assert_eq!(letters.keys().collect::<Vec<_>>(), ["job-1", "job-2", "job-3", "job-4"]);
    for letter in letters.values() {
        assert_eq!(letter.header("resetd-reason").unwrap(), "forbidden");
        assert_eq!(letter.header("resetd-attempts").unwrap(), "1");
    }
    stopped(&world, "main").await;
    assert_eq!(world.main().stats().calls, 5);
    assert_eq!(world.depth("resets.main.dead").await, 0);
    assert_eq!(world.depth("resets.main").await, 3, "nothing more is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_one_user_again_and_again_nor_a_success_between_makes_five_forbidden_users() {
    let mut rows = Rows::of(Plan::new()).await;
    let forbidden = ("failed", Some("forbidden"), Some(403), 1, "no");
    for n in 0..4 {
        let user = format!("u-{n}");
        rows.world.main().add_fault(fault(&format!("status=403,always,user={user}")));
        rows.job(&user, forbidden).await;
    }
    for _ in 0..3 {
        rows.job("u-0", forbidden).await;
    }
    rows.job("good", ("succeeded", None, Some(200), 1, "yes")).await;
    for n in 0..4 {
        rows.job(&format!("u-{n}"), forbidden).await;
    }
    assert_eq!(rows.world.readyz().await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_token_that_is_refused_too_halts_processing() {
    let world = Plan::new().start().await;
    world.main().add_fault(fault("status=401,always"));
    world.reset("main", "u-1", "job-1").await;
    let why = stopped(&world, "main").await;
    assert!(why.contains("Unauthorized, by a scripted fault"), "{why}");
    let stats = world.main().stats();
    assert_eq!((stats.calls, stats.token_requests), (2, 2));
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_halts_processing_with_the_words_of_the_provider_and_never_the_secret() {
    let mut world = Plan::new().prepare().await;
    world.config = world.config.replace("demo-secret", "not-the-secret");
    world.start_worker().await;
    world.ready().await;
    for n in 0..3 {
        world.reset("main", &format!("u-{n}"), &format!("job-{n}")).await;
    }
    let why = stopped(&world, "main").await;
    assert!(why.contains("invalid_client") && why.contains("client credentials are invalid or missing"), "{why}");
    assert!(!why.contains("not-the-secret"), "{why}");
    assert_eq!(world.main().stats().calls, 0);
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_fails_is_asked_again_and_stops_nothing() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    for text in ["status=500,next=2", "status=429,retry_after=1,next=1", "cut,next=1"] {
        world.main().add_fault(fault(&format!("target=token,{text}")));
    }
    world.reset("main", "u-1", "job-1").await;
    let record = outcomes.next().await.json();
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(world.main().stats().token_requests, 5);
    assert_eq!(world.readyz().await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn required_scopes_are_looked_for_where_the_token_has_scopes() {
    let keys = "required_scopes = [\"scim:users:write\"]";
    let plan = |scope: Option<&str>| {
        let settings = Settings { scope: scope.map(str::to_owned), ..unlimited() };
        Plan::new().org("main", settings, keys)
    };
    for scope in [Some("users scim:users:write"), None] {
        let world = plan(scope).start().await;
        let mut outcomes = world.outcomes().await;
        world.reset("main", "u-1", "job-1").await;
        assert_eq!(outcomes.next().await.json()["outcome"], "succeeded", "{scope:?}");
    }
    for scope in ["users scim:users:read", "scim:users:writer", ""] {
        let world = plan(Some(scope)).start().await;
        world.reset("main", "u-1", "job-1").await;
        let why = stopped(&world, "main").await;
        assert!(why.contains("scim:users:write"), "{why}");
        assert_eq!(world.main().stats().calls, 0);
        assert_eq!(world.depth("resets.main.dead").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_past_its_not_after_expires_without_a_call() {
    let world = Plan::new().start().await;
    let (mut outcomes, mut dead) = (world.outcomes().await, world.tap("resets.main.dead").await);
    until(&world, "u-late", SignedDuration::from_secs(-1)).await;
    let outcome = outcomes.next().await;
    assert_eq!(outcome.routing_key, "main.expired");
    let record = outcome.json();
    let said = (&record["outcome"], &record["success"], &record["passwordSet"]);
    assert_eq!(said, (&json!("expired"), &json!(false), &json!("no")), "{record}");
    let letter = dead.next().await;
    assert_eq!(letter.id(), "u-late");
    assert_eq!(letter.header("resetd-reason").unwrap(), "expired");
    assert_eq!(letter.header("resetd-attempts").unwrap(), "0");
    assert_eq!(world.main().stats().calls, 0);
    until(&world, "u-early", SignedDuration::from_secs(60)).await;
    assert_eq!(outcomes.next().await.json()["outcome"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_not_after_that_passes_between_two_tries_expires_the_job_and_leaves_the_password_unknown() {
    let world = Plan::new().start().await;
    let (mut outcomes, mut dead) = (world.outcomes().await, world.tap("resets.main.dead").await);
    world.main().add_fault(fault("status=503,retry_after=6,next=1,user=u-1"));
    until(&world, "u-1", SignedDuration::from_secs(5)).await;
    let record = outcomes.next().await.json();
    let said =
        json!([record["outcome"], record["reason"], record["status"], record["attempts"], record["passwordSet"]]);
    assert_eq!(said, json!(["expired", "expired", 503, 1, "unknown"]), "{record}");
    let letter = dead.next().await;
    assert_eq!(letter.header("resetd-reason").unwrap(), "expired");
    assert_eq!(letter.header("resetd-password-set").unwrap(), "unknown");
    assert_eq!(world.main().stats().calls, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interactive_jobs_overtake_bulk_ones_and_bulk_keeps_a_tenth() {
    // 50 ms a permit, and none until all of them wait, since there is no token before that.
    let world = Plan::new().org("lanes", unlimited(), "rate_per_minute = 1200").start().await;
    let mut emails = world.tap("emails").await;
    world.sim("lanes").add_fault(fault("target=token,status=500,always"));
    let channel = world.channel().await;
    for lane in ["lanes.bulk", "lanes"] {
        for n in 0..40 {
            let user = format!("{}-{n}", if lane == "lanes" { "i" } else { "b" });
            let body = reset_body(&user).to_string();
            world.publish_on(&channel, lane, body.as_bytes(), named(&user)).await;
        }
    }
    let waiting =
        ["interactive", "bulk"].map(|lane| format!("resetd_jobs_in_flight{{org=\"lanes\",lane=\"{lane}\"}} 40"));
    eventually("all of them wait", async || {
        let metrics = world.metrics().await;
        waiting.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    world.sim("lanes").clear_faults();
    let mails = emails.take(80).await;
    let order: String = mails.iter().map(|mail| mail.json()["userId"].as_str().unwrap()[..1].to_owned()).collect();
    let last = order.rfind('i').unwrap();
    let bulk_before = order[..last].matches('b').count();
    // A tenth of the permits; the calls run beside each other, so a mail may come a little out of its order.
    assert!((3..=5).contains(&bulk_before), "{order}");
    assert!(!order.contains(&"i".repeat(20)), "{order}");
}
