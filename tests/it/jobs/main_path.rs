//! The main path: a job becomes a password at the org, a mail in the queue, an outcome, and an ack.

use serde_json::json;

use crate::world::{Plan, locked_out, named, reset_body, text, unlimited, with_header};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producers_trace_goes_on_with_the_notification_the_outcome_and_the_reply() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = Plan::new().start().await;
    let (mut outcomes, mut emails) = (world.outcomes().await, world.tap("emails").await);
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), crate::world::exclusive(), Default::default()).await.unwrap();
    let mut replies = crate::world::Tap::of(&channel, queue.name().as_str()).await;
    for (user, trace, goes_on) in [("u-1", TRACE, Some(TRACE)), ("u-2", "hunter2", None)] {
        let properties = with_header(named(user).with_reply_to(queue.name().clone()), "traceparent", text(trace));
        world.publish("main", reset_body(user).to_string().as_bytes(), properties).await;
        for told in [emails.next().await, outcomes.next().await, replies.next().await] {
            assert_eq!(told.header("traceparent").as_deref(), goes_on, "{told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_becomes_a_password_a_mail_an_outcome_and_a_reply() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let mut emails = world.tap("emails").await;
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), crate::world::exclusive(), Default::default()).await.unwrap();
    let mut replies = crate::world::Tap::of(&channel, queue.name().as_str()).await;
    let properties = named("job-1").with_reply_to(queue.name().clone()).with_correlation_id("corr".into());
    world.publish("main", reset_body("u-1").to_string().as_bytes(), properties).await;

    let mail = emails.next().await;
    let said = mail.json();
    let id = said["notificationId"].as_str().unwrap().to_owned();
    let password = said["temporaryPassword"].as_str().unwrap();
    assert!(world.main().logs_in("u-1", password));
    assert_eq!(hex::decode(password).unwrap().len(), 16);
    assert_eq!(
        said["body"],
        format!("Your temporary password is: {password}. Please log in and change it immediately.")
    );
    assert_eq!(said["subject"], "Genesys Cloud Temporary Password Reset");
    for (field, value) in [("jobId", "job-1"), ("org", "main"), ("userId", "u-1"), ("to", "u-1@example.com")] {
        assert_eq!(said[field], value);
    }
    said["issuedAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(said.as_object().unwrap().len(), 9);
    let properties = &mail.properties;
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "password-reset");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "job-1");
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "86400000");

    let outcome = outcomes.next().await;
    assert_eq!(outcome.routing_key, "main.succeeded");
    assert_eq!(outcome.properties.kind().as_ref().unwrap().as_str(), "outcome");
    let mut record = outcome.json();
    record["finishedAt"].take().as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(
        record,
        json!({"jobId": "job-1", "org": "main", "lane": "interactive", "userId": "u-1", "batch": null, "outcome": "succeeded",
            "success": true, "reason": null, "status": 200, "attempts": 1, "passwordSet": "yes",
            "message": "Password reset completed and notification sent", "detail": null, "finishedAt": null})
    );

    let reply = replies.next().await;
    assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "corr");
    let said = reply.json();
    assert_eq!((&said["outcome"], &said["scimResponse"]["id"]), (&json!("succeeded"), &json!("u-1")));
    assert_eq!(world.depth("resets.main").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_jobs_in_both_lanes_leave_a_hundred_people_who_log_in() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    for n in 0..50 {
        world.reset("main", &format!("i-{n}"), &format!("job-i-{n}")).await;
        world.reset("main.bulk", &format!("b-{n}"), &format!("job-b-{n}")).await;
    }
    let mails = emails.take(100).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    assert_eq!(world.main().stats().password_sets, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_user_run_one_after_the_other_in_the_order_they_came() {
    let jitter = sim::Settings { latency_jitter: std::time::Duration::from_millis(10), ..unlimited() };
    let world = Plan::new().org("main", jitter, "").start().await;
    let mut emails = world.tap("emails").await;
    let channel = world.channel().await;
    for n in 0..60 {
        let body = reset_body(&format!("u-{}", n % 4)).to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&format!("{n:03}"))).await;
    }
    let mails = emails.take(60).await;
    for user in ["u-0", "u-1", "u-2", "u-3"] {
        let of_user = mails.iter().map(|mail| mail.json()).filter(|mail| mail["userId"] == user);
        let jobs: Vec<String> = of_user.map(|mail| mail["jobId"].as_str().unwrap().to_owned()).collect();
        assert!(jobs.is_sorted() && jobs.len() == 15, "{user}: {jobs:?}");
    }
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
}
