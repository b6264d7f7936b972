//! Reports to the stream of outcomes how an org stands, for those who follow a batch and for workers that stand by: RabbitMQ is the only state
//! that all of them share.

use std::convert::Infallible;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use tokio::time::{Instant, sleep};

use super::org::OrgContext;
use crate::amqp::publisher::{Message, Publisher};
use crate::domain::blocked::{Blocked, Cause, Status};
use crate::throttle::status::status;
use crate::wire;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is reported though nothing has changed: one who follows a batch reads at least an hour before its announcement.
const REPEAT: Duration = Duration::from_secs(30 * 60);
/// A pause that is over sooner is not reported: where others share the quota they come many times a minute.
const SHORT: SignedDuration = SignedDuration::from_secs(5);
/// A rate that differs by less than this part of the one that was reported is not reported: it creeps up in small steps.
const PART: u32 = 10;
/// How long after a record that could not be written the next is: one that was lost costs the connection a channel.
const AGAIN: Duration = Duration::from_secs(30);

/// Reports how the org stands whenever that has changed.
pub(super) async fn report(org: &OrgContext, publisher: &Publisher) -> Infallible {
    let stream = org.names.ledger();
    let mut reported: Option<(Status, Instant)> = None;
    loop {
        let row = org.board.borrow().orgs.get(&org.name).cloned();
        let now = Timestamp::now();
        let seen = row.and_then(|row| status(&row, &org.gate.meter())).map(|seen| reportable(seen, now));
        if let Some(seen) = seen
            && reported.as_ref().is_none_or(|(known, at)| is_news(known, &seen) || at.elapsed() >= REPEAT)
        {
            let (body, properties) = wire::state::record(&org.name, &org.worker, &seen, now);
            let message = Message { exchange: "", key: &stream, body: &body, properties };
            // Under a resource alarm this waits for its end.
            if let Err(unpublished) = publisher.publish(&message).await {
                tracing::debug!(org = org.name, reason = %unpublished, "how it stands could not be told");
                sleep(AGAIN).await;
                continue;
            }
            reported = Some((seen, Instant::now()));
        }
        sleep(LOOK).await;
    }
}

/// What is reported of it: moments in whole seconds, since some are computed anew from a clock each time, and no pause that is nearly over.
fn reportable(seen: Status, now: Timestamp) -> Status {
    let whole = |blocked: Blocked| {
        let until = blocked.until.and_then(|until| until.round(Unit::Second).ok());
        Blocked { until, ..blocked }
    };
    let is_short = |blocked: &Blocked| {
        blocked.cause == Cause::Paused && blocked.until.is_some_and(|until| until.duration_since(now) < SHORT)
    };
    let blocked = seen.blocked.filter(|blocked| !is_short(blocked)).map(whole);
    Status { rate: seen.rate, blocked, closed: seen.closed.map(|closed| closed.map(whole)) }
}

fn is_news(known: &Status, seen: &Status) -> bool {
    let rate = known.rate.abs_diff(seen.rate).saturating_mul(PART) >= known.rate;
    rate && known.rate != seen.rate
        || differ(known.blocked.as_ref(), seen.blocked.as_ref())
        || known.closed.iter().zip(&seen.closed).any(|(known, seen)| differ(known.as_ref(), seen.as_ref()))
}

/// A moment that is a second off is the same.
fn differ(known: Option<&Blocked>, seen: Option<&Blocked>) -> bool {
    match (known, seen) {
        (None, None) => false,
        (Some(known), Some(seen)) => {
            let apart = match (known.until, seen.until) {
                (Some(known), Some(seen)) => known.duration_since(seen).abs() > SignedDuration::from_secs(1),
                (known, seen) => known != seen,
            };
            apart || known.cause != seen.cause || known.reason != seen.reason
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::Lane;

    #[test]
    fn small_steps_of_the_rate_and_short_pauses_are_no_news() {
        let at = |millis| Timestamp::from_millisecond(millis).unwrap();
        let paused =
            |until: i64| Some(Blocked { cause: Cause::Paused, reason: "quota".into(), until: Some(at(until)) });
        let stands = |rate, blocked| Status { rate, blocked, closed: [const { None }; Lane::COUNT] };
        assert!(!is_news(&stands(300, None), &stands(280, None)));
        assert!(is_news(&stands(300, None), &stands(270, None)) && is_news(&stands(1, None), &stands(2, None)));
        assert_eq!(reportable(stands(300, paused(4_900)), at(0)), stands(300, None));
        assert_eq!(reportable(stands(300, paused(9_400)), at(0)), stands(300, paused(9_000)));
        assert!(is_news(&stands(300, None), &stands(300, paused(9_000))));
        assert!(!is_news(&stands(300, paused(9_000)), &stands(300, paused(10_000))));
        assert!(is_news(&stands(300, paused(9_000)), &stands(300, paused(12_000))));
        assert!(is_news(&stands(300, paused(9_000)), &stands(300, None)));
    }
}
