//! A mailer that is stopped or cut off delivers nothing beside the one that took over, though mails are in flight there.

use super::*;
use crate::relay::Relay;

/// A mailer with a network and a mail server of its own.
struct One {
    process: Process,
    http: String,
    relay: Relay,
    postbox: Postbox,
    _serving: DropGuard,
}

impl One {
    async fn start(world: &World, per_minute: u32) -> Self {
        let (relay, postbox) = (Relay::to(&world.amqp_url), Postbox::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // So that the broker misses a silent one within some 5 s, and not 25 s.
        let url = format!("{}?heartbeat=2", relay.url());
        let own =
            format!("[amqp]\nurl = {url:?}\n[mailer]\nrate_per_minute = {per_minute}\n[mailer.smtp]\nport = {port}\n");
        let serving = serve(&postbox, listener).await;
        let process = Run::of(world, &["--log", "json", "mailer"]).config(&own).start();
        let http = process.http().await;
        Self { process, http, relay, postbox, _serving: serving }
    }
}

/// The first is held while mails wait in flight, one permit every 2 s; the second takes over; the first is let go.
async fn delivers_no_more(hold: fn(&One), let_go: fn(&One)) {
    let world = Plan::new().config(&section(1)).prepare().await;
    let first = One::start(&world, 30).await;
    role_is(&first.http, "active").await;
    let second = One::start(&world, 60_000).await;
    role_is(&second.http, "standby").await;
    for n in 0..6 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    eventually("the first sends", async || (first.postbox.came() > 0).then_some(())).await;
    hold(&first);
    role_is(&second.http, "active").await;
    let before = first.postbox.came();
    assert!(before < 6, "mails were in flight");
    let ends = by_note(&records(&world, 6).await);
    let_go(&first);
    role_is(&first.http, "standby").await;
    assert_eq!(first.postbox.came(), before, "{}", first.process.stderr());
    assert!(ends.len() == 6 && ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    let letters = [first.postbox.letters(), second.postbox.letters()].concat();
    let mut ids: Vec<&str> = letters.iter().map(|letter| letter.message_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    assert!(second.postbox.came() >= 6 - before, "the second sends what the first had in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_is_stopped_delivers_nothing_once_another_has_taken_over() {
    delivers_no_more(|first| first.process.signal("STOP"), |first| first.process.signal("CONT")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_is_cut_off_from_the_broker_delivers_nothing_once_another_has_taken_over() {
    delivers_no_more(|first| first.relay.stall(), |first| first.relay.heal()).await;
}
