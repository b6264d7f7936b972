//! What opens and shuts the gate from outside: the worker's leave to call, the breaker, the adaptive rate, a takeover.

use std::sync::atomic::AtomicBool;

use super::*;

#[tokio::test(start_paused = true)]
async fn no_permit_is_given_before_the_gate_admits() {
    let bench = bench(6000, Ok);
    bench.gate.admit(None);
    assert_eq!(bench.shut(), Some(0.1));
    let mut waiting = Box::pin(bench.pass(Lane::Bulk));
    tokio::time::timeout(secs(60), &mut waiting).await.unwrap_err();
    bench.gate.admit(Some(Box::new(|| true)));
    assert_eq!((waiting.await, bench.shut()), (60.0, None));
}

#[tokio::test(start_paused = true)]
async fn while_the_worker_may_not_call_the_gate_looks_again_every_100_ms() {
    let bench = bench(6000, Ok);
    let (alive, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (says, looked) = (Arc::clone(&alive), Arc::clone(&looks));
    bench.gate.admit(Some(Box::new(move || {
        looked.fetch_add(1, Ordering::Relaxed);
        says.load(Ordering::Relaxed)
    })));
    let mut waiting = Box::pin(bench.permit());
    tokio::time::timeout(secs(10), &mut waiting).await.unwrap_err();
    assert!((95..=105).contains(&looks.load(Ordering::Relaxed)), "{looks:?}");
    assert_eq!(bench.asked.load(Ordering::Relaxed), 0, "nor is a token asked for");
    alive.store(true, Ordering::Relaxed);
    waiting.await;
    assert!(bench.elapsed() <= 10.2);
}

#[tokio::test(start_paused = true)]
async fn leave_to_call_that_ends_while_the_token_is_fetched_ends_in_time() {
    let alive = Arc::new(AtomicBool::new(true));
    let ends = Arc::clone(&alive);
    // The token's coming is the moment at which the lead is lost.
    let bench = bench(6000, move |asked| {
        ends.store(false, Ordering::Relaxed);
        Ok(asked)
    });
    let says = Arc::clone(&alive);
    bench.gate.admit(Some(Box::new(move || says.load(Ordering::Relaxed))));
    tokio::time::sleep(secs(1)).await;
    let mut waiting = Box::pin(bench.permit());
    tokio::time::timeout(secs(10), &mut waiting).await.unwrap_err();
    assert_eq!(bench.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_gives_no_permit_and_then_one_probe_at_a_time() {
    let bench = bench(6000, Ok);
    let open_for = bench.open_breaker().await;
    assert!((4.0..=6.0).contains(&open_for), "{open_for}");
    assert_eq!((bench.breaker(), bench.role()), (Some(BreakerState::Open), Role::Active));
    let opened = Instant::now();
    let probe = bench.permit().await;
    assert!(probe.is_probe() && (opened.elapsed().as_secs_f64() - open_for).abs() < 0.05);
    assert_eq!(bench.breaker(), Some(BreakerState::HalfOpen));
    assert_eq!(bench.gate.shut(Instant::now()), Some(Instant::now() + Duration::from_millis(100)));
    let mut next = Box::pin(bench.permit());
    tokio::time::timeout(secs(60), &mut next).await.unwrap_err();
    drop(probe);
    let probe = next.await;
    assert!(probe.is_probe(), "a probe that vanished leaves its place");
    probe.answered(&user("p"), Verdict::Faulted);
    let open_for = (bench.gate.shut(Instant::now()).unwrap() - Instant::now()).as_secs_f64();
    assert!((8.0..=12.0).contains(&open_for) && bench.breaker() == Some(BreakerState::Open), "{open_for}");
    assert_eq!(bench.permit().await.answered(&user("p"), Verdict::Worked), bench.asked.load(Ordering::Relaxed) - 1);
    assert_eq!((bench.breaker(), bench.shut()), (None, None));
    assert!(!bench.permit().await.is_probe());
}

#[tokio::test(start_paused = true)]
async fn a_probe_given_to_one_who_left_at_that_moment_is_free_again() {
    let bench = bench(6000, Ok);
    bench.open_breaker().await;
    let mut left = Box::pin(bench.gate.pass(Lane::Bulk, None, false));
    assert!(left.as_mut().now_or_never().is_none());
    tokio::time::sleep(secs(10)).await;
    // The permit lies in the channel, and nobody took it out.
    drop(left);
    assert!(bench.permit().await.is_probe());
}

#[tokio::test(start_paused = true)]
async fn a_bad_user_alone_in_the_interactive_lane_does_not_keep_the_breaker_open() {
    let bench = bench(6000, Ok);
    bench.open_breaker().await;
    let bad = async {
        // It would go on for ever: a probe's fault brings no job nearer to being given up.
        loop {
            bench.gate.pass(Lane::Interactive, None, false).await.unwrap().answered(&user("bad"), Verdict::Faulted);
        }
    };
    let good = async {
        bench.permit().await.answered(&user("good"), Verdict::Worked);
        bench.elapsed()
    };
    let closed = tokio::select! { () = bad => unreachable!("it has no end"), closed = good => closed };
    assert!(bench.breaker().is_none() && closed < 20.0, "{closed}: the second probe at the latest, after 5 s and 10 s");
}

#[tokio::test(start_paused = true)]
async fn the_board_says_half_open_when_the_time_is_over_though_nobody_asks() {
    let bench = bench(6000, Ok);
    assert!(bench.gate.is_proved());
    bench.open_breaker().await;
    tokio::time::sleep(secs(7)).await;
    assert_eq!((bench.breaker(), bench.shut()), (Some(BreakerState::HalfOpen), None));
    assert!(!bench.gate.is_proved(), "one call is let through to see");
}

#[tokio::test(start_paused = true)]
async fn it_is_shut_until_the_last_of_all_that_shuts_it() {
    let bench = bench(6000, Ok);
    assert_eq!(bench.shut(), None);
    bench.gate.pause(secs(10));
    assert_eq!(bench.shut(), Some(10.0));
    bench.gate.stop(HaltCause::TokenRefused, "a fresh token is refused");
    assert_eq!(bench.shut(), Some(15.0));
    bench.gate.throttled(secs(20));
    assert_eq!(bench.shut(), Some(20.0));
    tokio::time::sleep(secs(20)).await;
    assert_eq!((bench.shut(), bench.gate.is_proved()), (None, false));
    bench.gate.resolved(HaltCause::TokenRefused);
    assert!(bench.gate.is_proved());
}

/// Makes calls until then and returns the seconds of the permits. The org admits so many of them in each 10 s.
async fn serve(bench: &Bench, until: f64, quota: u32) -> Vec<f64> {
    let mut at = Vec::new();
    let mut window = (0, 0);
    // One in reserve, so that somebody always waits.
    let mut next = Box::pin(bench.permit());
    while bench.elapsed() < until {
        let permit = next.await;
        next = Box::pin(bench.permit());
        assert!(next.as_mut().now_or_never().is_none());
        at.push(bench.elapsed());
        let second = bench.start.elapsed().as_secs();
        window = if window.0 == second / 10 { (window.0, window.1 + 1) } else { (second / 10, 1) };
        if window.1 <= quota {
            permit.answered(&user("a"), Verdict::Worked);
        } else {
            permit.answered(&user("a"), Verdict::Throttled);
            bench.gate.throttled(secs(10 - second % 10));
        }
    }
    at
}

#[tokio::test(start_paused = true)]
async fn an_org_that_throttles_us_lowers_the_rate_and_a_takeover_resets_it() {
    let bench = bench(60, Ok);
    serve(&bench, 120.0, 5).await;
    let lowered = bench.gate.shared.lock().rate;
    assert!((27..=34).contains(&lowered), "{lowered}");
    bench.gate.start_empty();
    assert_eq!(bench.gate.shared.lock().rate, 60);
}

#[tokio::test(start_paused = true)]
async fn an_org_that_admits_all_keeps_the_rate() {
    let bench = bench(60, Ok);
    let at = serve(&bench, 130.0, 11).await;
    assert_eq!((at.len(), bench.gate.shared.lock().rate), (130, 60));
}

#[tokio::test(start_paused = true)]
async fn after_a_takeover_the_limiter_is_empty() {
    let bench = bench(300, Ok);
    tokio::time::sleep(secs(60)).await;
    bench.gate.start_empty();
    let mut waiting = Box::pin(bench.permit());
    assert!(tokio::time::timeout(Duration::from_millis(195), &mut waiting).await.is_err());
    waiting.await;
    assert!(bench.start.elapsed() < Duration::from_millis(60_210));
}
