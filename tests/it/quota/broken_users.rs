//! A few users whose calls fail, or are answered by somebody else than the org: they hold up nobody else for long, they are given up,
//! and what is everybody's trouble gives nobody up.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sim::Settings;

use crate::operator::process::{Run, readyz, role_is};
use crate::relay::Relay;
use crate::world::{Plan, Taken, World, by_job, eventually, fault, locked_out, named, reset_body, unlimited};

/// What `/readyz` says of an org.
async fn row(world: &World, org: &str) -> Value {
    world.readyz().await.1["orgs"][org].clone()
}

async fn publish(world: &World, key: &str, users: impl IntoIterator<Item = String>) {
    let channel = world.channel().await;
    for user in users {
        world.publish_on(&channel, key, reset_body(&user).to_string().as_bytes(), named(&user)).await;
    }
}

/// The reasons of the dead letters of an org, by job.
async fn dead(world: &World, org: &str) -> Vec<(String, String)> {
    let letters = world.drained(&format!("resets.{org}.dead")).await;
    letters.iter().map(|letter| (letter.id().to_owned(), letter.header("resetd-reason").unwrap())).collect()
}

/// How many passwords an org has set.
fn set(world: &World, org: &str) -> u64 {
    world.sim(org).stats().password_sets
}

/// The delays of a configuration that nobody has touched.
const AS_DEFAULT: &str = "[retry]\nbase = \"2s\"\nmax = \"60s\"";
const BAD: usize = 8;
const ALL: usize = 60;

/// 60 users of whom 8 always get 500: `is_bad` says which of them.
async fn eight_among_sixty(world: &World, org: &str, is_bad: fn(usize) -> bool) {
    // As long as it takes without them.
    let began = Instant::now();
    publish(world, org, (0..ALL).map(|n| format!("before-{n}"))).await;
    eventually("all before", async || (set(world, org) == ALL as u64).then_some(())).await;
    let without = began.elapsed();

    let users: Vec<(String, bool)> = (0..ALL).map(|n| (format!("user-{n}"), is_bad(n))).collect();
    assert_eq!(users.iter().filter(|(_, bad)| *bad).count(), BAD);
    for (user, _) in users.iter().filter(|(_, bad)| *bad) {
        world.sim(org).add_fault(fault(&format!("status=500,always,user={user}")));
    }
    let began = Instant::now();
    publish(world, org, users.iter().map(|(user, _)| user.clone())).await;
    let good = (2 * ALL - BAD) as u64;
    eventually("the others are done", async || (set(world, org) == good).then_some(())).await;
    let with = began.elapsed();
    eprintln!("{org}: the others took {with:?}, and {without:?} without the eight");
    assert!(with <= without + Duration::from_secs(15), "{org}: {with:?} and not {without:?}");

    let mut given_up = Vec::new();
    loop {
        given_up.extend(dead(world, org).await);
        if given_up.len() == BAD {
            break;
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(180), "{org}: after {took:?} only {given_up:?}, {}", row(world, org).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eprintln!("{org}: the eight were given up after {:?}", began.elapsed());
    for (user, reason) in given_up {
        let is_bad = users.iter().any(|(bad, is_bad)| *bad == user && *is_bad);
        assert!(is_bad && reason == "retries_exhausted", "{user}: {reason}");
    }
}

/// Users of these ids, and an org that has them alone: it finds `ID@example.com` by a search.
fn known(users: impl Iterator<Item = String>) -> Settings {
    Settings { users: Some(users.collect()), ..unlimited() }
}

async fn publish_by_name(world: &World, key: &str, user: &str) {
    let body = json!({"userName": format!("{user}@example.com"), "password": true, "email": "a@example.com"});
    world.publish(key, body.to_string().as_bytes(), named(user)).await;
}

/// Answers that are not the org's: the fault, and what `/readyz` says of it.
const FOREIGN: [(&str, &str, &str); 10] = [
    ("page", "status=200,body=html", "answered 200, Content-Type text/html"),
    ("page_by_type", "status=200,body={\"ok\":true},content_type=text/html", "answered 200, Content-Type text/html"),
    ("scim_error", "status=200,body=scim", "answered 200, Content-Type application/scim+json"),
    (
        "moved",
        "status=301,body=none,location=https://moved.example/x",
        "answered 301, Location https://moved.example/x",
    ),
    (
        "login",
        "status=302,body=html,location=https://portal.example/login?token=t",
        "answered 302, Location https://portal.example/login, Content-Type text/html",
    ),
    ("method", "status=405,body=none", "answered 405"),
    ("proxy", "status=407,body=html", "answered 407"),
    ("nothing_there", "status=404,body=none", "answered 404"),
    ("page_404", "status=404,body=html", "answered 404, Content-Type text/html"),
    ("page_403", "status=403,body=html", "answered 403, Content-Type text/html"),
];

/// Every job of these ended because the org knows no such user.
fn all_unknown(records: &[Taken]) -> bool {
    by_job(records).values().all(|record| record["reason"] == "not_found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_bad_users_among_sixty_hold_up_nobody_for_long_and_are_given_up() {
    let (first, spread) = ("eight_first", "eight_spread");
    let keys = "rate_per_minute = 3000";
    let plan = Plan::new().config(AS_DEFAULT).org(first, unlimited(), keys).org(spread, unlimited(), keys);
    let world = plan.start().await;
    tokio::join!(
        eight_among_sixty(&world, first, |n| n < BAD),
        eight_among_sixty(&world, spread, |n| n % 7 == 3 && n / 7 < BAD),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_gives_up_nobody_though_some_failed_before_it_while_others_passed() {
    // Two attempts: with them it is enough that one failure of the outage counts.
    let plan = Plan::new().config("[retry]\nmax_attempts = 2\nbase = \"3s\"\nmax = \"3s\"");
    let world = plan.org("brown", unlimited(), "rate_per_minute = 600").start().await;
    let mut outcomes = world.outcomes().await;
    (0..6).for_each(|n| world.sim("brown").add_fault(fault(&format!("status=500,next=1,user=user-{n}"))));
    publish(&world, "brown", (0..12).map(|n| format!("user-{n}"))).await;
    let records = by_job(&outcomes.take(12).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
    let brown = world.sim("brown");
    brown.add_fault(fault("status=500,always"));
    // None is answered before all are called: so none is called twice before it opens.
    let before = brown.stats().calls;
    brown.hold_calls();
    publish(&world, "brown", (0..30).map(|n| format!("out-{n}"))).await;
    eventually("all are in flight", async || (brown.stats().calls == before + 30).then_some(())).await;
    brown.release_calls();
    // It opens, and opens again after each of two probes: 5 and 10 s later.
    let mut probes: Vec<Timestamp> = Vec::new();
    eventually("two probes fail", async || {
        let shown = row(&world, "brown").await["breaker"].clone();
        if shown["state"] == "open" {
            let next: Timestamp = shown["nextProbe"].as_str().unwrap().parse().unwrap();
            // Each late answer shows the same opening once more, with a moment that is a little off.
            if probes.last().is_none_or(|last| next > *last + SignedDuration::from_secs(3)) {
                probes.push(next);
            }
        }
        (probes.len() == 3).then_some(())
    })
    .await;
    assert_eq!(dead(&world, "brown").await, []);
    brown.clear_faults();
    let records = by_job(&outcomes.take(30).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_succeeds_neither_keeps_the_breaker_closed_nor_closes_it() {
    const JOBS: usize = 12;
    let settings = known((0..JOBS).map(|n| format!("user-{n}")));
    let plan = Plan::new().config("[retry]\nmax_attempts = 2\nbase = \"20ms\"\nmax = \"40ms\"");
    let world = plan.org("searched", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    // Of PATCH alone: a search names nobody in its path.
    (0..JOBS).for_each(|n| world.sim("searched").add_fault(fault(&format!("status=503,always,user=user-{n}"))));
    let is_open = async || row(&world, "searched").await["breaker"].is_object();
    let mut given_up = 0;
    for n in 0..JOBS {
        publish_by_name(&world, "searched", &format!("user-{n}")).await;
        if !is_open().await {
            // One after the other, so that a search lies between the faults of each two.
            eventually("it is given up, or the breaker opens", async || {
                given_up += dead(&world, "searched").await.len();
                (given_up > n || is_open().await).then_some(())
            })
            .await;
        }
    }
    assert!(is_open().await && given_up <= 3, "{given_up} of {JOBS} were given up");
    // A search is among the calls of the first probes, and closes nothing.
    let first = row(&world, "searched").await["breaker"]["nextProbe"].clone();
    eventually("a probe fails", async || {
        let shown = row(&world, "searched").await["breaker"].clone();
        assert!(shown.is_object(), "it closed");
        (shown["state"] == "open" && shown["nextProbe"] != first).then_some(())
    })
    .await;
    assert_eq!(dead(&world, "searched").await, []);
    world.sim("searched").clear_faults();
    let records = by_job(&outcomes.take(JOBS).await);
    let succeeded = records.values().filter(|record| record["outcome"] == "succeeded").count();
    assert_eq!(succeeded, JOBS - given_up, "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_succeeds_lifts_no_halt_and_its_patch_is_the_same_try() {
    const JOBS: usize = 10;
    let settings = known((0..=JOBS).map(|n| format!("user-{n}")));
    let halted = Duration::from_millis(300);
    let world = Plan::new().halted_for(halted).org("forbidding", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    let org = world.sim("forbidding");
    (0..=JOBS).for_each(|n| {
        org.add_fault(fault(&format!("status=403,code=missing.permissions,always,user=user-{n}")));
    });
    let began = Instant::now();
    world.reset("forbidding", "user-0", "user-0").await;
    eventually("it is halted", async || (row(&world, "forbidding").await["role"] == "halted").then_some(())).await;
    for n in 1..=JOBS {
        publish_by_name(&world, "forbidding", &format!("user-{n}")).await;
    }
    eventually("four tries were refused", async || {
        assert_eq!(row(&world, "forbidding").await["role"], "halted");
        (org.stats().by_status["403"] >= 5).then_some(())
    })
    .await;
    // 300, 600, 1200 and 2400 ms apart.
    assert!(began.elapsed() >= halted * 15, "{:?}", began.elapsed());
    org.clear_faults();
    let records = by_job(&outcomes.take(JOBS + 1).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
    eventually("it goes on", async || (row(&world, "forbidding").await["role"] == "active").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_the_orgs_is_no_success_halts_it_and_loses_nothing() {
    const JOBS: usize = 8;
    let mut plan = Plan::new().halted_for(Duration::from_millis(300));
    for (org, ..) in FOREIGN {
        plan = plan.org(org, unlimited(), "rate_per_minute = 3000");
    }
    let world = plan.start().await;
    let mut outcomes = world.outcomes().await;
    let halts = FOREIGN.map(async |(org, text, said)| {
        world.sim(org).add_fault(fault(&format!("{text},always")));
        publish(&world, org, (0..JOBS).map(|n| format!("{org}-{n}"))).await;
        let why = eventually(&format!("{org} is halted"), async || {
            let row = row(&world, org).await;
            (row["role"] == "halted").then(|| row["reason"].as_str().unwrap().to_owned())
        })
        .await;
        for part in ["foreign_answer", "/api/v2/scim/v2/Users/", said] {
            assert!(why.contains(part), "{part} is not in: {why}");
        }
        assert!(!why.contains("token=t"), "{why}");
        // The next tries are answered likewise, and it stays halted.
        let calls = world.sim(org).stats().calls;
        eventually("it is tried again", async || (world.sim(org).stats().calls >= calls + 2).then_some(())).await;
        assert_eq!(row(&world, org).await["role"], "halted");
        assert!(world.sim(org).stats().calls <= (JOBS + 6) as u64, "{}", world.sim(org).stats().calls);
        assert_eq!(dead(&world, org).await, []);
    });
    join_all(halts).await;
    assert_eq!(world.depth("emails").await, 0, "nobody's password was set");
    for (org, ..) in FOREIGN {
        world.sim(org).clear_faults();
    }
    for (job, record) in by_job(&outcomes.take(JOBS * FOREIGN.len()).await) {
        let said = (&record["outcome"], &record["attempts"]);
        assert_eq!(said, (&json!("succeeded"), &json!(1)), "{job}: {record}");
    }
    world.ready().await;
    let mails = world.drained("emails").await;
    for (org, ..) in FOREIGN {
        let own: Vec<_> = mails.iter().filter(|mail| mail.json()["org"] == org).collect();
        assert_eq!(own.len(), JOBS, "{org}");
        own.iter().for_each(|mail| assert_eq!(locked_out(world.sim(org), std::slice::from_ref(mail)), [""; 0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_by_searches_ends_with_a_search_that_the_org_answers_though_it_finds_nobody() {
    const JOBS: usize = 3;
    let plan = Plan::new().halted_for(Duration::from_millis(300));
    let world = plan.org("portal", known(["somebody".to_owned()].into_iter()), "").start().await;
    let mut outcomes = world.outcomes().await;
    world.sim("portal").add_fault(fault("status=302,body=html,location=https://portal.example/login,always"));
    for n in 0..JOBS {
        publish_by_name(&world, "portal", &format!("nobody-{n}")).await;
    }
    eventually("it is halted", async || (row(&world, "portal").await["role"] == "halted").then_some(())).await;
    world.sim("portal").clear_faults();
    assert!(all_unknown(&outcomes.take(JOBS).await));
    eventually("it goes on", async || (row(&world, "portal").await["role"] == "active").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_finds_nobody_ends_no_halt_by_a_patch_and_the_next_try_does_not_wait() {
    const JOBS: usize = 12;
    let plan = Plan::new().halted_for(Duration::from_millis(900));
    let world = plan.org("proxy", known(["user-0", "user-1"].map(str::to_owned).into_iter()), "").start().await;
    let mut outcomes = world.outcomes().await;
    // A proxy that lets a GET through and no PATCH.
    for user in ["user-0", "user-1"] {
        world.sim("proxy").add_fault(fault(&format!("status=405,body=none,always,user={user}")));
        world.reset("proxy", user, user).await;
    }
    eventually("both were answered", async || {
        world.sim("proxy").stats().by_status.get("405").filter(|count| **count >= 2).map(|_| ())
    })
    .await;
    let (began, before) = (Instant::now(), world.sim("proxy").stats().by_status["405"]);
    for n in 0..JOBS {
        publish_by_name(&world, "proxy", &format!("nobody-{n}")).await;
    }
    // By the doubling wait of a halt this takes 300 ms * 2^11.
    let ended = tokio::time::timeout(Duration::from_secs(25), outcomes.take(JOBS)).await;
    assert!(all_unknown(&ended.expect("all of them end soon")));
    eprintln!("{JOBS} searches took {:?}", began.elapsed());
    assert_eq!((&row(&world, "proxy").await["role"], set(&world, "proxy")), (&json!("halted"), 0));
    let more = world.sim("proxy").stats().by_status["405"] - before;
    assert!(more <= JOBS as u64 / 2, "{more} PATCHes more");
    world.sim("proxy").clear_faults();
    let records = by_job(&outcomes.take(2).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_without_a_body_is_one() {
    let world = Plan::new().org("bodiless", unlimited(), "").start().await;
    let mut outcomes = world.outcomes().await;
    for status in [200_u16, 204] {
        world.sim("bodiless").add_fault(fault(&format!("status={status},body=none,apply,next=1")));
        let user = format!("user-{status}");
        world.reset("bodiless", &user, &user).await;
        let record = outcomes.next().await.json();
        assert_eq!((&record["outcome"], &record["status"]), (&json!("succeeded"), &json!(status)), "{record}");
    }
    assert_eq!(locked_out(world.sim("bodiless"), &world.drained("emails").await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_odd_user_among_a_hundred_delays_the_others_by_15_s_at_most_and_is_rejected() {
    const USERS: u64 = 100;
    // Nothing is injected: it is tried again as soon as in a real one.
    let world = Plan::new().org("odd", unlimited(), "rate_per_minute = 3000").start().await;
    let mut outcomes = world.outcomes().await;
    let began = Instant::now();
    publish(&world, "odd", (0..USERS).map(|n| format!("before-{n}"))).await;
    eventually("all before", async || (set(&world, "odd") == USERS).then_some(())).await;
    let without = began.elapsed();
    outcomes.take(USERS as usize).await;

    world.sim("odd").add_fault(fault("status=302,body=html,location=/login,always,user=user-30"));
    let began = Instant::now();
    publish(&world, "odd", (0..USERS).map(|n| format!("user-{n}"))).await;
    eventually("the others are done", async || (set(&world, "odd") == 2 * USERS - 1).then_some(())).await;
    let with = began.elapsed();
    eprintln!("the others took {with:?}, and {without:?} without the odd one");
    assert!(with <= without + Duration::from_secs(15), "{with:?} and not {without:?}");
    let records = by_job(&outcomes.take(USERS as usize).await);
    for (job, record) in &records {
        let said = json!([record["outcome"], record["reason"], record["status"], record["attempts"]]);
        let expected =
            if job == "user-30" { json!(["failed", "rejected", 302, 5]) } else { json!(["succeeded", null, 200, 1]) };
        assert_eq!(said, expected, "{record}");
    }
    let detail = records["user-30"]["detail"].as_str().unwrap();
    for part in ["/api/v2/scim/v2/Users/user-30", "302", "Location /login", "text/html"] {
        assert!(detail.contains(part), "{part} is not in: {detail}");
    }
    let shown = row(&world, "odd").await;
    assert_eq!((&shown["role"], &shown["reason"]), (&json!("active"), &json!(null)), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_lost_the_leadership_shows_no_halt_no_breaker_and_no_closed_lane() {
    // All calls are in flight before the first one is answered.
    let settings = Settings { latency: Duration::from_secs(4), ..unlimited() };
    let world = Plan::new().org("main", settings, "guard_per_hour = 1").prepare().await;
    let relay = Relay::to(&world.amqp_url);
    let own = format!("[amqp]\nurl = \"{}?heartbeat=2\"\n", relay.url());
    let first = Run::of(&world, &["--log", "json", "worker"]).config(&own).start();
    let first_http = first.http().await;
    role_is(&first_http, "active").await;
    let second = Run::of(&world, &["--log", "json", "worker"]).start();
    let second_http = second.http().await;
    role_is(&second_http, "standby").await;
    // One reset closes the bulk lane; six faults open the breaker, and a missing permission halts it.
    world.reset("main", "user", "user").await;
    eventually("it is set", async || (set(&world, "main") == 1).then_some(())).await;
    world.main().add_fault(fault("status=403,code=missing.permissions,always,user=forbidden"));
    world.main().add_fault(fault("status=500,always"));
    publish(&world, "main", (0..6).map(|n| format!("bad-{n}"))).await;
    // Answered after the others, whose faults count for nothing once it is halted; and called before them.
    eventually("they are in flight", async || (world.main().stats().calls == 7).then_some(())).await;
    publish(&world, "main", ["forbidden".to_owned()]).await;
    let shown =
        |http: String| async move { readyz(&http).await.map(|(status, said)| (status, said["orgs"]["main"].clone())) };
    eventually("all three are shown", async || {
        let (status, row) = shown(first_http.clone()).await?;
        let all = row["role"] == "halted" && row["breaker"].is_object() && row["bulk"].is_object();
        (status == 503 && all).then_some(())
    })
    .await;
    let gauges = async |http: &str| {
        let text = testkit::http::get(format!("{http}/metrics")).await.ok()?.text().await.ok()?;
        let of = |start: &str| {
            let values =
                text.lines().filter(|line| line.starts_with(start)).map(|line| line.rsplit(' ').next().unwrap());
            values.map(|value| value.parse::<f64>().unwrap()).sum::<f64>()
        };
        let names = [
            "resetd_halted{",
            "resetd_breaker_state{",
            "resetd_breaker_next_probe_timestamp_seconds{",
            "resetd_bulk_closed{",
        ];
        Some(names.map(of))
    };
    assert!(gauges(&first_http).await.unwrap().iter().all(|gauge| *gauge > 0.0));
    // It is cut off, and the org works again where the other one has it.
    relay.refuse();
    relay.cut();
    role_is(&second_http, "active").await;
    world.main().clear_faults();
    relay.heal();
    role_is(&first_http, "standby").await;
    let (status, mut row) = eventually("it answers", async || shown(first_http.clone()).await).await;
    let leader = row.as_object_mut().unwrap().remove("leader").unwrap();
    assert_eq!(leader["here"], json!(false));
    assert_eq!((status, row), (200, json!({"role": "standby", "reason": null})));
    assert_eq!(gauges(&first_http).await, Some([0.0; 4]));
    eventually("the other one does the jobs", async || (set(&world, "main") == 8).then_some(())).await;
    assert_eq!(gauges(&first_http).await, Some([0.0; 4]));
    drop((first, second));
}
