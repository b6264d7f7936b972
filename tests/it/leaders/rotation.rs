//! A secret is changed by a restart: the worker drains, the next one has the new secret, nothing is lost and nobody is reset twice.

use sim::Secret;

use crate::operator::process::Process;
use crate::world::{Plan, eventually, locked_out, slow};

const JOBS: usize = 200;

/// The org's client gets another secret in the middle of the jobs; the tokens that it has may end at once too.
async fn a_client_secret_is_rotated(tokens_end: bool) {
    let mut world = Plan::new().org("main", slow(), "rate_per_minute = 6000").prepare().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client_secret");
    std::fs::write(&file, "demo-secret\n").unwrap();
    world.config = world.config.replace("client_secret = \"demo-secret\"", &format!("client_secret_file = {file:?}"));
    let (mut first, _) = Process::worker(&world).await;
    let users = world.reset_many("main", JOBS).await;
    eventually("20 passwords are set", async || (world.main().stats().password_sets >= 20).then_some(())).await;

    world.main().rotate_client_secret(Secret::from("the-next-secret"));
    if tokens_end {
        world.main().revoke_tokens();
        eventually("processing halts", async || first.stderr().contains("refuses the client").then_some(())).await;
    }
    std::fs::write(&file, "the-next-secret\n").unwrap();
    let (code, took) = first.terminated().await;
    assert_eq!(code, 0, "{}", first.stderr());
    let done = usize::try_from(world.main().stats().password_sets).unwrap();
    eprintln!("drained in {took:?} with {done} of {JOBS} done");
    assert!(done < JOBS, "the rest is for the next one");

    let (mut second, _) = Process::worker(&world).await;
    let records = world.recorded(JOBS).await;
    assert_eq!(second.terminated().await.0, 0);
    let (succeeded, others): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.routing_key == "main.succeeded");
    // A busy broker loses acks of a channel that ends: such a job is done, and ends as the duplicate that it is.
    assert!(others.iter().all(|record| record.routing_key == "main.duplicate"), "{others:?}");
    let mails = world.drained("emails").await;
    assert_eq!((succeeded.len(), mails.len()), (JOBS, JOBS));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for user in users {
        assert_eq!(world.main().user(&user).unwrap().password_sets, 1, "{user}");
    }
    assert_eq!(world.depth("resets.main.dead").await, 0);
    for log in [first.stderr(), second.stderr()] {
        assert!(!log.contains("demo-secret") && !log.contains("the-next-secret"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_secret_is_rotated_by_a_restart_in_the_middle_of_jobs_and_nobody_is_lost_or_reset_twice() {
    a_client_secret_is_rotated(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_secret_whose_tokens_end_with_it_halts_processing_until_the_restart_and_loses_nobody() {
    a_client_secret_is_rotated(true).await;
}
