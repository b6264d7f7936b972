//! A release beside the one before it: what that left is finished, and both work side by side through an upgrade and back.
//! `make test-upgrade` builds the one before and names it in `RESETD_BEFORE`.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use resetd::commands::demo::postbox::Postbox;
use tokio::net::TcpListener;

use crate::leaders::standby::{Worker, keep_the_quota, plan};
use crate::mails::mailer;
use crate::operator::process::{Process, Run, binary, ready};
use crate::world::{
    Plan, World, by_job, eventually, fault, named, nobody_is_locked_out, reset_body, text, unlimited, with_header,
};

/// The `resetd` of the release before.
fn before() -> PathBuf {
    std::env::var_os("RESETD_BEFORE").expect("RESETD_BEFORE names the release before: make test-upgrade").into()
}

fn of_before(world: &World, command: &str) -> Process {
    Run::of_binary(&before(), &["--log", "json", command]).configured(world).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-upgrade builds the release before"]
async fn what_the_release_before_left_is_finished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let section = mailer::section(listener.local_addr().unwrap().port());
    let postbox = Postbox::default();
    let _serving = mailer::serve(&postbox, listener).await;
    let world = Plan::new().config(&section).prepare().await;
    world.main().add_fault(fault("status=404,user=gone,always"));

    let mut old = of_before(&world, "worker");
    ready(&old.http().await).await;
    let users = world.reset_many("main", 20).await;
    world.reset("main", "gone", "job-gone").await;
    let later = Timestamp::now() + SignedDuration::from_secs(20);
    let delayed = with_header(named("job-later"), "not-before", text(&later.to_string()));
    world.publish("main.bulk", reset_body("later").to_string().as_bytes(), delayed).await;
    eventually("all that can be done is done", async || {
        let done = world.main().stats().password_sets == 20 && world.depth("emails").await == 20;
        (done && world.depth("resets.main.dead").await == 1 && world.depth("resets.main.parked.15s").await == 1)
            .then_some(())
    })
    .await;
    assert_eq!(old.terminated().await.0, 0, "{}", old.stderr());
    // Whose jobs are done already, and come again.
    world.reset_many("main", 20).await;
    for n in 0..30 {
        world.reset(["main", "main.bulk"][n % 2], &format!("waiting-{n}"), &format!("job-waiting-{n}")).await;
    }

    world.main().clear_faults();
    let (mut new, _) = Process::worker(&world).await;
    let (code, said, err) = Run::of(&world, &["dead", "replay", "--all", "--yes"]).end().await;
    assert_eq!((code, said.as_str()), (0, "org main: 1 letter replayed\n"), "{err}");
    let mut sender = Run::of(&world, &["--log", "json", "mailer"]).start();
    mailer::role_is(&sender.http().await, "active").await;
    let all = 20 + 30 + 2;
    eventually("every mail is sent", async || (postbox.letters().len() >= all).then_some(())).await;
    let records = world.recorded(all).await;
    let mut to: Vec<String> = postbox.letters().into_iter().map(|mail| mail.to).collect();
    to.sort();
    to.dedup();
    assert_eq!((to.len(), postbox.letters().len()), (all, all), "each has one mail");
    let again = |user: &String| {
        records.iter().any(|record| {
            record.routing_key == "main.duplicate" && record.json()["jobId"] == format!("job-{user}").as_str()
        })
    };
    assert!(users.iter().all(again), "what the release before did is not done again");
    let ended = by_job(&records);
    for job in ["job-later", "job-gone", "job-waiting-0", "job-waiting-29"] {
        assert_eq!(ended[job]["outcome"], "succeeded", "{job}");
    }
    assert_eq!(world.main().stats().password_sets, all as u64);
    assert!(Timestamp::now() >= later);
    for queue in ["resets.main", "resets.main.bulk", "resets.main.dead", "resets.main.parked.15s", "emails"] {
        eventually(queue, async || (world.depth(queue).await == 0).then_some(())).await;
    }
    assert_eq!((new.terminated().await.0, sender.terminated().await.0), (0, 0));
}

/// Who comes and who goes, one after the other, while 400 jobs are done: to the new release, and back to the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-upgrade builds the release before"]
async fn an_upgrade_and_a_rollback_under_load_lose_nobody_and_reset_nobody_twice() {
    let world = plan(unlimited()).prepare().await;
    let (old, new) = (before(), binary());
    let mut workers = vec![Worker::of_binary(&old, &world).await];
    ready(&workers[0].http).await;
    workers.push(Worker::of_binary(&old, &world).await);
    let users = world.reset_many("main", 400).await;
    let called = |workers: &[Worker]| workers.iter().map(|worker| worker.calls().len()).sum::<usize>();
    for (gone, (comes, is_killed)) in [(&new, false), (&new, true), (&old, false), (&old, true)].into_iter().enumerate()
    {
        let reached = called(&workers) + 30;
        eventually("jobs go on", async || (called(&workers) >= reached).then_some(())).await;
        workers.push(Worker::of_binary(comes, &world).await);
        if is_killed {
            workers[gone].process.kill().await;
        } else {
            let (code, took) = workers[gone].process.terminated().await;
            assert_eq!(code, 0, "{}", workers[gone].process.stderr());
            assert!(took < Duration::from_secs(15), "{took:?}");
        }
    }
    nobody_is_locked_out(&world, &users).await;
    let mut calls: Vec<_> =
        workers.iter().enumerate().flat_map(|(n, worker)| worker.calls().into_iter().map(move |at| (at, n))).collect();
    calls.sort();
    let mut order: Vec<usize> = calls.iter().map(|(_, n)| *n).collect();
    order.dedup();
    let mut once = order.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(order.len(), once.len(), "two never call in turns: {order:?}");
    assert!(order.len() >= 4, "{order:?}");
    let twice: Vec<_> = users.iter().filter(|user| world.main().user(user).unwrap().password_sets != 1).collect();
    assert_eq!(twice, Vec::<&String>::new());
    let all: [Worker; 6] = workers.try_into().ok().unwrap();
    keep_the_quota(world.main(), &all);
}
