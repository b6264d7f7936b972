//! The gate under paused time: who gets a permit, when, and what it costs.

mod broken;
mod signals;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::board::{Role, Session};
use crate::domain::breaker::BreakerState;
use crate::domain::retry::HALTED;
use crate::domain::user::UserId;

const POLICY: RetryPolicy =
    RetryPolicy { max_attempts: 5, base: Duration::from_secs(2), max: Duration::from_secs(60), halted: HALTED };

/// A gate at 60 permits a minute whose tokens come from a script.
struct Bench {
    gate: Gate<u32>,
    board: Board,
    asked: Arc<AtomicU32>,
    start: Instant,
}

fn bench(per_minute: u32, script: impl Fn(u32) -> Result<u32, TokenError> + Send + Sync + 'static) -> Bench {
    let board = Board::new(["main"].into_iter());
    board.session(&"main".into(), Session::Active);
    let asked = Arc::new(AtomicU32::new(0));
    let (counter, script) = (Arc::clone(&asked), Arc::new(script));
    let tokens: TokenSource<u32> = Box::new(move || {
        let token = script(counter.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move { token })
    });
    let limiter = Limiter::new(NonZeroU32::new(per_minute).unwrap(), NonZeroU32::MIN);
    let gate = Gate::open("main", limiter, Guard::new([None; Lane::COUNT], None), POLICY, board.clone(), tokens);
    gate.admit(Some(Box::new(|| true)));
    Bench { gate, board, asked, start: Instant::now() }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn user(name: impl fmt::Display) -> UserId {
    UserId::parse(&name.to_string()).unwrap()
}

impl Bench {
    /// Passes, and says how many seconds after the start.
    async fn pass(&self, lane: Lane) -> f64 {
        self.gate.pass(lane, None, false).await.unwrap();
        self.elapsed()
    }

    async fn permit(&self) -> Permit<u32> {
        self.gate.pass(Lane::Bulk, None, false).await.unwrap()
    }

    /// Until how many seconds after the start it is shut.
    fn shut(&self) -> Option<f64> {
        self.gate.shut(Instant::now()).map(|until| ((until - self.start).as_secs_f64() * 10.0).round() / 10.0)
    }

    /// Makes calls that fail until the breaker is open, and says for how many seconds it is.
    async fn open_breaker(&self) -> f64 {
        for n in 0..5 {
            self.permit().await.answered(&user(n), Verdict::Faulted);
        }
        (self.gate.shut(Instant::now()).unwrap() - Instant::now()).as_secs_f64()
    }

    fn breaker(&self) -> Option<BreakerState> {
        self.board.watch().borrow().orgs["main"].breaker.as_ref().map(|breaker| breaker.state)
    }

    fn elapsed(&self) -> f64 {
        (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0
    }

    fn role(&self) -> Role {
        self.board.watch().borrow().orgs["main"].role().0
    }
}

#[tokio::test(start_paused = true)]
async fn permits_come_at_the_rate() {
    let bench = bench(60, Ok);
    let mut at = Vec::new();
    for _ in 0..4 {
        at.push(bench.pass(Lane::Bulk).await);
    }
    assert_eq!(at, [1.0, 2.0, 3.0, 4.0]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_every_call_and_a_shorter_one_does_not_end_it() {
    let bench = bench(60, Ok);
    bench.gate.pause(Duration::from_secs(30));
    bench.gate.pause(Duration::from_secs(5));
    let (one, two) = tokio::join!(bench.pass(Lane::Bulk), bench.pass(Lane::Interactive));
    assert_eq!((one, two), (31.0, 30.0));
}

#[tokio::test(start_paused = true)]
async fn a_later_interactive_job_overtakes_waiting_bulk_jobs() {
    let bench = bench(60, Ok);
    let mut bulk = Box::pin(async { tokio::join!(bench.pass(Lane::Bulk), bench.pass(Lane::Bulk)) });
    assert!(bulk.as_mut().now_or_never().is_none());
    let (interactive, bulk) = tokio::join!(bench.pass(Lane::Interactive), bulk);
    assert_eq!((interactive, bulk), (1.0, (2.0, 3.0)));
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_costs_no_permit() {
    let bench = bench(60, Ok);
    {
        let mut left = Box::pin(bench.gate.pass(Lane::Interactive, None, false));
        assert!(left.as_mut().now_or_never().is_none());
    }
    assert_eq!(bench.pass(Lane::Bulk).await, 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_expired_job_gets_no_permit_and_costs_none() {
    let bench = bench(60, Ok);
    let past = Timestamp::now() - jiff::SignedDuration::from_secs(1);
    assert_eq!(bench.gate.pass(Lane::Interactive, Some(past), false).await.unwrap_err(), Expired);
    assert_eq!(bench.pass(Lane::Bulk).await, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_halts_processing_and_is_tried_again_ever_later() {
    let bench = bench(6000, |asked| if asked < 4 { Err(TokenError::Refused("invalid_client".into())) } else { Ok(7) });
    let mut waiting = Box::pin(bench.pass(Lane::Bulk));
    assert!(waiting.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.role(), Role::Halted);
    // Newcomers do not make it ask sooner.
    let mut more = Box::pin(bench.pass(Lane::Bulk));
    assert!(more.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(103)).await;
    assert_eq!(bench.asked.load(Ordering::Relaxed), 3, "at 0, 15 and 45 s");
    assert_eq!(bench.shut(), Some(105.0));
    assert_eq!(waiting.await, 225.0);
    assert_eq!(bench.shut(), None);
    assert_eq!(bench.role(), Role::Active);
    more.await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_token_endpoint_is_asked_again_after_the_wait_it_named() {
    let wait = Some(Duration::from_secs(20));
    let bench =
        bench(6000, move |asked| if asked == 0 { Err(TokenError::Failed { why: "429".into(), wait }) } else { Ok(7) });
    let mut waiting = Box::pin(bench.pass(Lane::Bulk));
    assert!(waiting.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.shut(), Some(20.0));
    let (first, second) = tokio::join!(waiting, bench.pass(Lane::Interactive));
    assert_eq!((first, second, bench.role()), (20.0, 20.0, Role::Active));
    assert_eq!(bench.shut(), None);
    assert_eq!(bench.asked.load(Ordering::Relaxed), 3, "a newcomer did not make it ask sooner");
}

#[tokio::test(start_paused = true)]
async fn a_halted_org_lets_one_try_through_ever_later_until_it_is_resolved() {
    let bench = bench(6000, Ok);
    bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
    assert_eq!(bench.role(), Role::Halted);
    assert_eq!(bench.shut(), Some(15.0));
    let mut at = Vec::new();
    for _ in 0..7 {
        at.push(bench.pass(Lane::Bulk).await);
        // The try was refused again; so were others that were in flight.
        bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
        bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
    }
    assert_eq!(at, [15.0, 45.0, 105.0, 225.0, 465.0, 765.0, 1065.0]);
    bench.gate.resolved(HaltCause::Forbidden);
    assert_eq!((bench.pass(Lane::Bulk).await, bench.role()), (1065.0, Role::Active));
    bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
    assert_eq!(bench.shut(), Some(1080.0), "resolved, it begins anew");
}

#[tokio::test(start_paused = true)]
async fn while_pending_publishes_are_refused_no_try_is_made_at_all() {
    let bench = bench(6000, Ok);
    bench.gate.stop(HaltCause::Unpublishable, "no queue takes it");
    assert_eq!(bench.shut(), Some(0.1));
    let mut waiting = Box::pin(bench.pass(Lane::Bulk));
    tokio::time::timeout(Duration::from_secs(7200), &mut waiting).await.unwrap_err();
    bench.gate.resolved(HaltCause::Unpublishable);
    waiting.await;
}
