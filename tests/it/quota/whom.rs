//! Who may have whom reset, and told: the addresses that are allowed, a bound for each lane, where replies go, and what the mailer takes.

use std::time::Duration;

use lapin::BasicProperties;
use resetd::commands::demo::postbox::Postbox;
use serde_json::{Value, json};

use crate::operator::process::{Process, Run, role_is};
use crate::world::{Plan, World, by_job, eventually, fault, locked_out, named, unlimited};

async fn reset(world: &World, job: &str, email: &str, properties: BasicProperties) {
    let body = json!({"userId": job, "password": true, "email": email}).to_string();
    world.publish("main", body.as_bytes(), properties).await;
}

/// What `/readyz` says of `main`.
async fn row(world: &World) -> Value {
    let (status, body) = world.readyz().await;
    assert_eq!((status, &body["orgs"]["main"]["role"]), (200, &json!("active")), "{body}");
    body["orgs"]["main"].clone()
}

/// The same, once this lane is closed.
async fn closed(world: &World, lane: &str) -> Value {
    let what = format!("the {lane} lane is closed");
    eventually(&what, async || Some(row(world).await).filter(|said| said[lane].is_object())).await
}

async fn publish(world: &World, key: &str, name: &str, jobs: std::ops::Range<u32>) {
    for n in jobs {
        world.reset(key, &format!("{name}-{n}"), &format!("{name}-{n}")).await;
    }
}

async fn lies(world: &World, queue: &str, jobs: u32) {
    eventually(&format!("{jobs} jobs lie in {queue}"), async || (world.depth(queue).await == jobs).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_address_is_of_another_domain_is_refused_before_any_call() {
    let allowed = "[notification]\nallowed_domains = [\"Example.com\", \"*.example.org\", \"bücher.example\"]";
    let world = Plan::new().config(allowed).start().await;
    let mut outcomes = world.outcomes().await;
    let good = ["a@example.com", "b@EXAMPLE.COM", "c@eu.example.org", "d@a.b.example.org", "e@xn--bcher-kva.example"];
    let bad = ["f@evil.example", "g@example.com.evil.example", "h@eu.example.com", "i@example.org", "j@notexample.com"];
    for email in good.into_iter().chain(bad) {
        reset(&world, &email[..1], email, named(&email[..1])).await;
    }
    let ended = by_job(&outcomes.take(good.len() + bad.len()).await);
    for email in good {
        assert_eq!(ended[&email[..1]]["outcome"], "succeeded", "{email}");
    }
    for email in bad {
        assert_eq!(ended[&email[..1]]["reason"], "address_not_allowed", "{email}: {ended:?}");
        assert!(!ended[&email[..1]].to_string().contains('@'), "{ended:?}");
    }
    assert_eq!(world.main().stats().calls, good.len() as u64);
    let letters = world.drained("resets.main.dead").await;
    assert_eq!(letters.len(), bad.len());
    for letter in letters {
        let detail = letter.header("resetd-detail").unwrap();
        assert!(detail.contains("notification.allowed_domains") && !detail.contains("evil"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_asked_for_at_none_of_resetds_own_queues() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let own = [
        "emails",
        "emails.dead",
        "emails.parked.15s",
        "resets.main",
        "resets.main.bulk",
        "resets.main.dead",
        "resets.main.parked.2m",
        "resets.other",
        "resets.outcomes",
    ];
    for queue in own {
        let reply_to = world.named(queue);
        reset(&world, queue, "a@example.com", named(queue).with_reply_to(reply_to.as_str().into())).await;
    }
    let ended = by_job(&outcomes.take(own.len()).await);
    for queue in own {
        assert_eq!((&ended[queue]["reason"], &ended[queue]["attempts"]), (&json!("invalid_job"), &json!(0)), "{queue}");
        assert!(ended[queue]["detail"].as_str().unwrap().starts_with("reply_to: "), "{ended:?}");
    }
    let rest = ["emails", "emails.dead", "resets.main", "resets.main.bulk", "resets.main.parked.2m"];
    for queue in rest.into_iter().filter(|queue| !queue.starts_with("emails.")) {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
    assert_eq!((world.depth("resets.main.dead").await, world.main().stats().calls), (own.len() as u32, 0));
    // One whose name only begins alike gets it.
    let queue = world.named("resets-replies");
    let (channel, options) = (world.channel().await, crate::world::exclusive());
    channel.queue_declare(queue.as_str().into(), options, lapin::types::FieldTable::default()).await.unwrap();
    reset(&world, "last", "a@example.com", named("last").with_reply_to(queue.as_str().into())).await;
    assert_eq!(crate::world::Tap::of(&channel, &queue).await.next().await.json()["outcome"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_wants_them_sealed_and_for_its_domains_sends_no_other_notification() {
    let postbox = Postbox::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = crate::mails::mailer::section(listener.local_addr().unwrap().port());
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("mail");
    let made = Run::new(&["keygen", key.to_str().unwrap()]).end().await;
    assert_eq!(made.0, 0, "{}", made.2);
    let world = Plan::new().config(&config).prepare().await;
    let _serving = crate::mails::mailer::serve(&postbox, listener).await;
    let own = format!("[mailer]\nrequire_sealed = true\nopen_with = [\"{}.key.pem\"]\n", key.display());
    let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).config(&own).start();
    let http = mailer.http().await;
    crate::mails::mailer::role_is(&http, "active").await;
    crate::mails::mailer::notify(&world, &crate::mails::mailer::note(1, 0), BasicProperties::default()).await;
    let dead = world.tap("emails.dead").await.next().await;
    assert_eq!(dead.header("resetd-reason").as_deref(), Some("not_sealed"));
    assert!(!String::from_utf8_lossy(&dead.body).contains("secret-pw-1"), "{dead:?}");
    assert_eq!(postbox.letters().len(), 0);
    assert_eq!(mailer.terminated().await.0, 0);
    // Without a key it could send none.
    let run = Run::of(&world, &["mailer"]).config("[mailer]\nrequire_sealed = true\n");
    crate::operator::process::ends(run, 2, &["mailer.require_sealed", "mailer.open_with"]).await;

    let domains = "[notification]\nallowed_domains = [\"example.org\"]\n";
    let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).config(domains).start();
    crate::mails::mailer::role_is(&mailer.http().await, "active").await;
    crate::mails::mailer::notify(&world, &crate::mails::mailer::note(2, 0), BasicProperties::default()).await;
    let dead = world.tap("emails.dead").await.next().await;
    assert_eq!(dead.header("resetd-reason").as_deref(), Some("address_not_allowed"));
    assert_eq!(postbox.letters().len(), 0);
    assert_eq!(mailer.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_its_own_guard_the_interactive_lane_closes_too_and_nothing_is_lost() {
    let guard = "guard_per_hour = { interactive = 5, bulk = 12 }";
    let mut world = Plan::new().org("main", unlimited(), guard).start().await;
    let mut mails = world.tap("emails").await;
    // What the bulk lane sets does not count against the interactive one.
    publish(&world, "main.bulk", "bulk", 0..6).await;
    let mut told = mails.take(6).await;
    publish(&world, "main", "now", 0..12).await;
    told.extend(mails.take(5).await);
    lies(&world, "resets.main", 7).await;
    assert_eq!(world.main().stats().password_sets, 11);
    let said = closed(&world, "interactive").await;
    assert_eq!((&said["interactive"]["state"], &said["bulk"]), (&json!("closed"), &Value::Null), "{said}");
    let cause = said["interactive"]["cause"].as_str().unwrap();
    assert!(
        cause.starts_with(
            "5 people were reset by interactive jobs within an hour, and guard_per_hour.interactive allows 5"
        ),
        "{cause}"
    );
    let until: jiff::Timestamp = said["interactive"]["until"].as_str().unwrap().parse().unwrap();
    let ahead = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3_500..=3_600).contains(&ahead), "{ahead} s ahead");
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"resetd_interactive_closed{org="main",cause="guard_per_hour"} 1"#), "{metrics}");
    let state = async || {
        let http = &world.worker().http;
        testkit::http::get(format!("{http}/state")).await.unwrap().json::<Value>().await.unwrap()["orgs"]["main"]
            .clone()
    };
    let page = eventually("the page says so", async || {
        Some(state().await).filter(|page| page["interactiveClosed"].is_object())
    })
    .await;
    assert!(page["interactiveClosed"]["cause"].as_str().unwrap().contains("guard_per_hour"), "{page}");
    // The bulk lane goes on, to its own bound, of which both lanes use up a part.
    publish(&world, "main.bulk", "more", 0..4).await;
    told.extend(mails.take(1).await);
    closed(&world, "bulk").await;
    lies(&world, "resets.main.bulk", 3).await;
    assert_eq!(world.main().stats().password_sets, 12);
    eventually("the status line says so", async || {
        state().await["statusLine"]["text"].as_str().unwrap().contains("guard_per_hour").then_some(())
    })
    .await;
    // A restart does not open it: by which lane each was reset stands in the stream.
    world.stop_worker().await.unwrap();
    world.start_worker().await;
    // Ready is one that takes over too.
    role_is(&world.worker().http, "active").await;
    closed(&world, "interactive").await;
    assert_eq!((world.depth("resets.main").await, world.main().stats().password_sets), (7, 12));
    // The limit is raised.
    world.stop_worker().await.unwrap();
    world.config = world.config.replace("interactive = 5, bulk = 12", "interactive = 50, bulk = 60");
    world.start_worker().await;
    told.extend(mails.take(10).await);
    assert_eq!(locked_out(world.main(), &told), Vec::<String>::new());
    assert_eq!(world.depth("resets.main.dead").await, 0);
    let said = row(&world).await;
    assert_eq!((&said["interactive"], &said["bulk"]), (&Value::Null, &Value::Null));
}

/// It takes 30 s: thirty jobs, six in 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interactive_places_that_are_free_one_by_one_bring_no_job_near_its_delivery_limit() {
    let keys = "rate_per_minute = 120\nguard_per_hour = { interactive = 6 }";
    let hour = Duration::from_secs(5);
    let mut world = Plan::new().guarding_for(hour).org("main", unlimited(), keys).start().await;
    let mut outcomes = world.outcomes().await;
    publish(&world, "main", "now", 0..30).await;
    // They set nothing, and take no place of those that do.
    world.main().add_fault(fault("status=404,next=2"));
    let mut ended = outcomes.take(24).await;
    world.stop_worker().await.unwrap();
    let lying = world.drained("resets.main").await;
    let count = |job: &crate::world::Taken| job.header("x-delivery-count").map_or(0, |count| count.parse().unwrap());
    let most: u32 = lying.iter().map(count).max().unwrap_or_default();
    assert!(most <= 3, "{most}");
    for job in &lying {
        world.reset("main", job.id(), job.id()).await;
    }
    world.start_worker().await;
    ended.extend(outcomes.take(30 - ended.len()).await);
    let succeeded = by_job(&ended).values().filter(|record| record["outcome"] == "succeeded").count();
    assert_eq!((succeeded, world.depth("resets.main").await), (28, 0));
    drop(world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_of_both_lanes_says_which_key_it_is_by_a_process_too() {
    let world = Plan::new().prepare().await;
    for (value, parts) in [
        ("guard_per_hour = { interactive = 0 }", ["orgs.main.guard_per_hour.interactive", "at least 1"]),
        ("guard_per_hour = 0", ["orgs.main.guard_per_hour", "at least 1"]),
        ("guard_per_hour = { other = 1 }", ["other", "interactive"]),
    ] {
        let run = Run::of(&world, &["worker"]).config(&format!("[orgs.main]\n{value}"));
        crate::operator::process::ends(run, 2, &parts).await;
    }
    let run = Run::of(&world, &["--log", "json", "worker"]);
    let mut worker: Process = run.env("RESETD__ORGS__MAIN__GUARD_PER_HOUR__INTERACTIVE", "7").start();
    crate::operator::process::ready(&worker.http().await).await;
    assert_eq!(worker.terminated().await.0, 0);
}
