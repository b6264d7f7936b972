//! How an org's worker stands, in what the board and the gate say of it. Pure.

use crate::board::{OrgState, Role};
use crate::domain::blocked::{Blocked, Cause, Status};
use crate::domain::job::Lane;

use super::gate::Meter;

/// How the org stands here; `None`: another worker has it, or none.
pub fn status(row: &OrgState, meter: &Meter) -> Option<Status> {
    let (role, reason) = row.role();
    let blocked = match role {
        Role::Standby => return None,
        Role::Halted => Some(Blocked {
            cause: Cause::Halted,
            reason: reason.unwrap_or_else(|| "operator action required".to_owned()),
            until: meter.next_try,
        }),
        Role::Starting => Some(Blocked {
            cause: Cause::Starting,
            reason: reason.unwrap_or_else(|| "it has not begun yet".to_owned()),
            until: None,
        }),
        Role::Active => active(row, meter),
    };
    let closed = Lane::ALL.map(|lane| {
        let closed = row.closed[lane.index()].as_ref()?;
        Some(Blocked { cause: Cause::LaneClosed(lane), reason: closed.cause.clone(), until: Some(closed.until) })
    });
    Some(Status { rate: meter.rate, blocked, closed })
}

fn active(row: &OrgState, meter: &Meter) -> Option<Blocked> {
    let blocked = |cause, reason: &str, until| Some(Blocked { cause, reason: reason.to_owned(), until });
    if let Some(breaker) = &row.breaker {
        return blocked(Cause::BreakerOpen, &breaker.cause, Some(breaker.next_probe));
    }
    if !meter.may_call {
        let why = "the broker does not confirm what is published, or no ping comes back";
        return blocked(Cause::Unconfirmed, why, None);
    }
    if meter.no_token_until.is_some() {
        return blocked(Cause::NoToken, "the token endpoint failed and is asked again", meter.no_token_until);
    }
    if meter.paused_until.is_some() {
        let why = "the org asked for it: its quota is spent, or it is not available";
        return blocked(Cause::Paused, why, meter.paused_until);
    }
    None
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::board::{Board, ClosedLane, Session};
    use crate::domain::breaker::{BreakerState, BreakerView};
    use crate::domain::retry::HaltCause;

    #[test]
    fn what_keeps_the_jobs_is_named_with_its_moment_and_a_standby_says_nothing() {
        let at = |seconds| Timestamp::from_second(seconds).ok();
        let mut meter = Meter { rate: 240, next_try: at(1), ..Meter::idle(300) };
        let board = Board::new(["main"].into_iter());
        let said = |meter: &Meter| status(&board.watch().borrow().orgs["main"], meter);
        let cause =
            |meter: &Meter| said(meter).and_then(|said| said.blocked).map(|blocked| (blocked.cause, blocked.until));
        assert_eq!(cause(&meter), Some((Cause::Starting, None)));
        board.session(&"main".into(), Session::Active);
        assert_eq!(said(&meter), Some(Status { rate: 240, blocked: None, closed: [const { None }; Lane::COUNT] }));
        (meter.paused_until, meter.no_token_until) = (at(2), None);
        assert_eq!(cause(&meter), Some((Cause::Paused, at(2))));
        meter.no_token_until = at(3);
        assert_eq!(cause(&meter), Some((Cause::NoToken, at(3))));
        meter.may_call = false;
        assert_eq!(cause(&meter), Some((Cause::Unconfirmed, None)));
        let next_probe = at(4).unwrap();
        board.breaker(
            &"main".into(),
            Some(BreakerView { state: BreakerState::Open, kind: "faults_in_row", cause: "faults".into(), next_probe }),
        );
        assert_eq!(cause(&meter), Some((Cause::BreakerOpen, at(4))));
        let closed = ClosedLane { kind: "bulk_window", cause: "its hours".into(), until: next_probe };
        board.lane(&"main".into(), Lane::Bulk, Some(closed.clone()));
        let of = |lane: Lane| said(&meter).and_then(|said| said.closed[lane.index()].clone());
        assert_eq!(of(Lane::Interactive), None);
        board.lane(&"main".into(), Lane::Interactive, Some(closed));
        let interactive = of(Lane::Interactive).map(|blocked| blocked.cause);
        assert_eq!(interactive, Some(Cause::LaneClosed(Lane::Interactive)));
        let closes = Cause::LaneClosed(Lane::Bulk);
        assert_eq!(of(Lane::Bulk), Some(Blocked { cause: closes, reason: "its hours".into(), until: at(4) }));
        board.stop(&"main".into(), HaltCause::Forbidden, "missing.permissions");
        assert_eq!(cause(&meter), Some((Cause::Halted, at(1))));
        board.resolved(&"main".into(), HaltCause::Forbidden);
        board.session(&"main".into(), Session::Standby(None));
        assert_eq!(said(&meter), None);
    }
}
