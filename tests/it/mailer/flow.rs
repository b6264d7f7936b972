//! How mails flow to the next hop: what each of them waits for, what it costs, and what of it holds up the others.

use super::*;

fn attempts(ends: &BTreeMap<String, Value>) -> Vec<u64> {
    ends.values().map(|end| end["attempts"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_waits_for_a_connection_has_all_of_its_time_when_it_gets_one() {
    // Three mails by one connection take longer than one delivery may.
    let slow = Postbox::answering(|_, _| (Duration::from_secs(2), "250 taken".to_owned()));
    let scene = Scene::new(slow, "").await;
    let mailer = Run::of(&scene.world, &["--log", "json", "mailer"]).config("[mailer.smtp]\npool = 1\n").start();
    role_is(&mailer.http().await, "active").await;
    for n in 0..3 {
        scene.notify(&note(n, 0)).await;
    }
    let ends = by_note(&records(&scene.world, 3).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    assert_eq!(attempts(&ends), [1, 1, 1]);
    scene.letters(3).await;
    assert!(!mailer.stderr().contains("a try failed"), "{}", mailer.stderr());
}
