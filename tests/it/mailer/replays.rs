//! Dead mails that are replayed: nobody whose newer password was told is given another, and nobody is left out.

use super::*;

/// A reset of `user`, asked for so many seconds from now.
async fn asked(world: &World, job: &str, user: &str, to: &str, from_now: i64) {
    let at = Timestamp::now() + SignedDuration::from_secs(from_now);
    let properties =
        BasicProperties::default().with_message_id(job.into()).with_timestamp(at.as_second().cast_unsigned());
    let body = json!({"userId": user, "password": true, "email": to});
    world.publish("main", body.to_string().as_bytes(), properties).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mail_that_is_replayed_resets_nobody_who_has_a_newer_password_and_everybody_else() {
    let postbox = Postbox::answering(|to, _| {
        let said = if to.starts_with("wrong") { "550 5.1.1 no such person" } else { "250 taken" };
        (Duration::ZERO, said.to_owned())
    });
    let mut scene = Scene::new(postbox, "").await;
    scene.world.start_worker().await;
    scene.world.ready().await;
    let (mut mailer, _) = scene.mailer().await;
    // Told since, by a job that was already asked for when the mail died.
    asked(&scene.world, "told-1", "told", "wrong-1@example.com", -100).await;
    scene.world.recorded(1).await;
    asked(&scene.world, "told-2", "told", "right@example.com", -50).await;
    // Asked for by a producer whose clock is ahead.
    asked(&scene.world, "ahead", "ahead", "wrong-2@example.com", 200).await;
    // Twice at a wrong address.
    asked(&scene.world, "twice-1", "twice", "wrong-3@example.com", -60).await;
    asked(&scene.world, "twice-2", "twice", "wrong-4@example.com", -30).await;
    // Without a moment.
    let body = json!({"userId": "untimed", "password": true, "email": "wrong-5@example.com"});
    let properties = BasicProperties::default().with_message_id("untimed".into());
    scene.world.publish("main", body.to_string().as_bytes(), properties).await;
    records(&scene.world, 6).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    scene.world.recorded(6).await;
    scene.world.stop_worker().await.unwrap();
    let dead = scene.world.depth("emails.dead").await;

    let (code, out, said) =
        Run::of(&scene.world, &["dead", "--queue", "emails", "replay", "--all", "--yes"]).end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &[&format!("emails: {dead} letters replayed")]);
    scene.world.start_worker().await;
    scene.world.ready().await;
    let jobs = usize::try_from(6 + dead).unwrap();
    let again = scene.world.recorded(jobs).await.split_off(6);
    assert_eq!(again.len(), usize::try_from(dead).unwrap());
    scene.world.stop_worker().await.unwrap();
    let mut mails: Vec<_> = scene.world.drained("emails").await.iter().map(|mail| mail.json()["to"].clone()).collect();
    mails.sort_by_key(Value::to_string);
    assert_eq!(mails, ["wrong-2@example.com", "wrong-4@example.com", "wrong-5@example.com"], "{again:?}");
    assert_eq!(scene.world.main().user("told").unwrap().password_sets, 2, "the one that they were told logs in");
    let letters = scene.letters(1).await;
    assert_eq!(letters[0].to, "right@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mail_of_an_org_without_a_lane_stays_and_keeps_no_other_back() {
    let scene = Scene::new(Postbox::answering(|_, _| (Duration::ZERO, "550 no".into())), "").await;
    let (mut mailer, _) = scene.mailer().await;
    for (n, org) in [(1, "main"), (2, "gone"), (3, "main")] {
        scene.notify(&with(note(n, 0), &json!({"org": org}))).await;
    }
    eventually("all are dead", async || (scene.world.depth("emails.dead").await == 3).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    let mut world = scene.world;
    world.start_worker().await;
    world.ready().await;
    world.stop_worker().await.unwrap();
    let replay = ["dead", "--queue", "emails", "replay", "--all", "--yes"];
    let (code, out, said) = Run::of(&world, &replay).end().await;
    assert_eq!(code, 1, "{said}");
    says(&out, &["emails: 2 letters replayed"]);
    says(&said, &["2 of 3 letters were replayed; the others stay", "no queue takes it", "\"gone\""]);
    eventually("one stays", async || (world.depth("emails.dead").await == 1).then_some(())).await;
    assert_eq!(
        (world.depth("resets.main").await, world.drained("emails.dead").await[0].json()["org"].clone()),
        (2, json!("gone"))
    );
}
