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
    let mut setup = Setup::new(postbox, "").await;
    setup.world.start_worker().await;
    setup.world.ready().await;
    let (mut mailer, _) = setup.mailer().await;
    // LedgerRecord since, by a job that was already asked for when the mail died.
    asked(&setup.world, "told-1", "notified", "wrong-1@example.com", -100).await;
    setup.world.recorded(1).await;
    asked(&setup.world, "told-2", "notified", "right@example.com", -50).await;
    // Asked for by a producer whose clock is ahead.
    asked(&setup.world, "ahead", "ahead", "wrong-2@example.com", 200).await;
    // Twice at a wrong address.
    asked(&setup.world, "twice-1", "twice", "wrong-3@example.com", -60).await;
    asked(&setup.world, "twice-2", "twice", "wrong-4@example.com", -30).await;
    // Without a moment.
    let body = json!({"userId": "untimed", "password": true, "email": "wrong-5@example.com"});
    let properties = BasicProperties::default().with_message_id("untimed".into());
    setup.world.publish("main", body.to_string().as_bytes(), properties).await;
    records(&setup.world, 6).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    setup.world.recorded(6).await;
    setup.world.stop_worker().await.unwrap();
    let dead = setup.world.depth("emails.dead").await;

    let (code, out, said) =
        Run::of(&setup.world, &["dead", "--queue", "emails", "replay", "--all", "--yes"]).end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &[&format!("emails: {dead} letters replayed")]);
    setup.world.start_worker().await;
    setup.world.ready().await;
    let jobs = usize::try_from(6 + dead).unwrap();
    let again = setup.world.recorded(jobs).await.split_off(6);
    assert_eq!(again.len(), usize::try_from(dead).unwrap());
    setup.world.stop_worker().await.unwrap();
    let mut mails: Vec<_> = setup.world.drained("emails").await.iter().map(|mail| mail.json()["to"].clone()).collect();
    mails.sort_by_key(Value::to_string);
    assert_eq!(mails, ["wrong-2@example.com", "wrong-4@example.com", "wrong-5@example.com"], "{again:?}");
    assert_eq!(setup.world.main().user("notified").unwrap().password_sets, 2, "the one that they were told logs in");
    let letters = setup.letters(1).await;
    assert_eq!(letters[0].to, "right@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mail_of_an_org_without_a_lane_stays_and_keeps_no_other_back() {
    let setup = Setup::new(Postbox::answering(|_, _| (Duration::ZERO, "550 no".into())), "").await;
    let (mut mailer, _) = setup.mailer().await;
    for (n, org) in [(1, "main"), (2, "gone"), (3, "main")] {
        setup.notify(&with(note(n, 0), &json!({"org": org}))).await;
    }
    eventually("all are dead", async || (setup.world.depth("emails.dead").await == 3).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    let mut world = setup.world;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_what_was_no_notification_asks_for_nobody_that_it_did_not_name() {
    const SECRET: &str = "tr0ub4dor";
    let setup = Setup::new(Postbox::answering(|_, _| (Duration::ZERO, "250 taken".into())), "").await;
    // The lanes are there, and nobody works them.
    crate::world::declare(&setup.world.connection, &resetd::amqp::names::Names::new(&setup.world.prefix, "main")).await;
    let (mut mailer, _) = setup.mailer().await;
    let rest =
        format!(r#""notificationId":"note-1","jobId":"job-1","org":"main","subject":"{SECRET}","body":"{SECRET}""#);
    let odd = [
        format!(r#"{{"userId":"a","userId":"b","to":"b@example.com",{rest}}}"#),
        format!(r#"{{"userId":"b","to":"a@example.com","to":"b@example.com",{rest}}}"#),
        format!(r#"{{"userId":{{"$serde_json::private::RawValue":"\"b\""}},"to":"b@example.com",{rest}}}"#),
        format!(r#"{{"userId":"b","to":"pin {SECRET}",{rest}}}"#),
        format!(r#"{{"Message":{{"userId":"b","to":"b@example.com","pin":"{SECRET}",{rest}}}}}"#),
    ];
    for body in &odd {
        let properties = BasicProperties::default().with_type(SECRET.into()).with_cluster_id(SECRET.into());
        publish(&setup.world, "notifications", "email", body.as_bytes(), properties).await;
    }
    let good = format!(r#"{{"userId":"c","to":"c@example.com","Kennwort":"{SECRET}",{rest}}}"#);
    publish(&setup.world, "notifications", "email", good.as_bytes(), BasicProperties::default()).await;
    eventually("all are dead", async || (setup.world.depth("emails.dead").await == 6).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    assert!(!mailer.stderr().contains(SECRET), "{}", mailer.stderr());

    let (code, out, said) =
        Run::of(&setup.world, &["dead", "--queue", "emails", "replay", "--all", "--yes"]).end().await;
    let jobs = setup.world.drained("resets.main").await;
    assert_eq!(jobs.iter().map(|job| job.json()["userId"].clone()).collect::<Vec<_>>(), ["c"], "{out}{said}");
    assert_eq!((code, out.as_str()), (1, "emails: 1 letter replayed\n"), "{said}");
    says(&said, &["5 letters cannot be replayed and stay"]);
    eventually("they stay", async || (setup.world.depth("emails.dead").await == 5).then_some(())).await;
    for letter in setup.world.drained("emails.dead").await {
        let properties = &letter.properties;
        let texts = [properties.kind(), properties.cluster_id()].map(|text| text.as_ref().map(ToString::to_string));
        let all = format!("{} {texts:?}", String::from_utf8_lossy(&letter.body));
        assert!(!all.contains(SECRET), "{all}");
    }
}
