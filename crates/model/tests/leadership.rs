//! The checker's verdict on leadership: as designed, and without each of the bounds that it rests on.
#![expect(
    clippy::print_stdout,
    reason = "what was explored, and how a bound that is missing is exploited, with --nocapture"
)]

use std::time::Instant;

use model::{Bound, Leadership, NO_OUTCOME_LOST, ONE_CALLER};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores everything: what must hold holds, and what can happen happens.
fn holds<const N: usize>(what: &str, model: Leadership<N>) {
    let began = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{what}: {} states, {} steps, {} deep, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f32()
    );
    for (name, path) in checker.discoveries() {
        println!("{name}: {:?}", path.into_actions());
    }
    checker.assert_properties();
}

/// Finds the shortest way to break `property`.
fn breaks<const N: usize>(model: Leadership<N>, property: &'static str) {
    let (what, began) = (model.without.map_or("nothing".into(), |bound| format!("{bound:?}")), Instant::now());
    let checker = model.checker().finish_when(HasDiscoveries::AllOf([property].into())).spawn_bfs().join();
    let path = checker.assert_any_discovery(property).into_actions();
    println!(
        "without {what}: not {property:?}, in {} steps; {} states, {:.1} s",
        path.len(),
        checker.unique_state_count(),
        began.elapsed().as_secs_f32()
    );
    path.iter().for_each(|step| println!("  {step:?}"));
}

/// Two candidates with a `request_timeout` of one tick, which are not killed and whose fences are not late: two hand-overs.
fn two() -> Leadership<2> {
    Leadership { kills: false, late_fences: false, ..Leadership::new([1, 1], Some(2)) }
}

#[test]
fn as_designed() {
    holds("two candidates", two());
}

#[test]
fn with_processes_that_are_killed() {
    holds("killed", Leadership { kills: true, ..two() });
}

#[test]
fn with_another_request_timeout_each() {
    holds("another request_timeout each", Leadership { request_timeout: [2, 1], ..two() });
}

#[test]
fn with_fences_that_are_late() {
    holds("late fences", Leadership { late_fences: true, handovers: Some(1), ..two() });
}

/// Only calls.
fn calls() -> Leadership<2> {
    Leadership { outcomes: false, releases: false, ..two() }
}

/// Calls and their outcomes.
fn outcomes() -> Leadership<2> {
    Leadership { outcomes: true, ..calls() }
}

/// Calls and `released`.
fn releases() -> Leadership<2> {
    Leadership { releases: true, ..calls() }
}

macro_rules! without {
    ($($bound:ident $name:ident: $model:expr, $property:ident;)*) => {
        $(#[test]
        fn $name() {
            breaks($model.without(Bound::$bound), $property);
        })*
    };
}

without! {
    SendTime freshness_from_arrival: calls(), ONE_CALLER;
    RegistrationId anybodys_ping_counts: calls(), ONE_CALLER;
    Wait no_wait: calls(), ONE_CALLER;
    LeadersTimeout the_successor_waits_by_its_own_timeout:
        Leadership { request_timeout: [2, 1], ..outcomes() }, NO_OUTCOME_LOST;
    LongestTimeout the_successor_waits_by_the_last_names_timeout:
        Leadership { request_timeout: [2, 1], kills: true, ..outcomes() }, NO_OUTCOME_LOST;
    WaitFromFence the_wait_begins_with_the_first_ping: calls(), ONE_CALLER;
    WaitFromPing the_wait_begins_with_the_fence: outcomes(), NO_OUTCOME_LOST;
    Spare nothing_to_spare: outcomes(), NO_OUTCOME_LOST;
    UnbrokenWait the_wait_goes_on_over_a_lapse: calls(), ONE_CALLER;
    SecondFence no_second_fence: outcomes(), NO_OUTCOME_LOST;
    OneNameATerm the_second_fence_is_a_name: calls(), ONE_CALLER;
    FenceAfterLapse no_fence_after_a_lapse: calls(), ONE_CALLER;
    FenceWithinProof a_fence_outlives_a_lapse: calls(), ONE_CALLER;
    AllNamesBetween only_the_name_right_before_counts: Leadership { late_fences: true, ..calls() }, ONE_CALLER;
    PublishGrace publishing_has_no_end: outcomes(), NO_OUTCOME_LOST;
    PublishByFence a_ping_reopens_publishing: outcomes(), NO_OUTCOME_LOST;
    ReleasedOfTerm released_is_of_any_term: releases(), ONE_CALLER;
    ReleasedByLeader who_waits_releases: releases(), ONE_CALLER;
}

#[test]
fn handed_to_and_fro_for_a_whole_wait() {
    breaks(Leadership { handovers: Some(3), ..outcomes() }, NO_OUTCOME_LOST);
    breaks(Leadership { handovers: None, ..calls() }, ONE_CALLER);
}

/// A candidate that holds its newest own ping learns of each hand-over, so their number does not matter.
#[test]
fn handed_to_and_fro_with_the_newest_ping_held() {
    newest_ping_held("any number of hand-overs", calls());
}

/// As above, with what the quick test leaves out.
fn newest_ping_held(what: &str, model: Leadership<2>) {
    holds(&format!("newest ping held, {what}"), Leadership { hold_newest: true, handovers: None, ..model });
}

#[test]
#[ignore = "takes minutes"]
fn newest_ping_held_and_outcomes() {
    newest_ping_held("outcomes", outcomes());
}

#[test]
#[ignore = "takes minutes"]
fn newest_ping_held_and_released() {
    newest_ping_held("released", releases());
}

#[test]
#[ignore = "takes minutes"]
fn three_candidates() {
    let off = Leadership { kills: false, late_fences: false, releases: false, ..Leadership::new([1, 1, 1], Some(2)) };
    holds("three candidates", Leadership { outcomes: false, ..off });
}

#[test]
#[ignore = "takes minutes"]
fn everything_at_once() {
    holds("everything at once", Leadership::new([2, 1], Some(2)));
}
