//! Failpoints: places in the lifecycle of a job where a test can end the process, or make it panic. They are in debug builds only, which is
//! what tests run; in a release build they are nothing, and `.ci/run` looks that its name is not in one.
//!
//! `RESETD_FAILPOINT="patched@job-7=abort"` ends the process when job `job-7` has reached that stage; `=panic` panics there; `=pause`
//! says so and holds the job up for as long as a test needs to break the network, and less than what its publish grace may take.
//!
//! `RESETD_FAILPOINT_READABLE="1"` leaves the memory of the process to others of its user, for a test that looks at it and is not root's.
//!
//! `RESETD_FAILPOINT_GUARD_HOUR="20"` makes the hour in which `guard_per_hour` counts so many seconds long: a run of minutes can see the
//! bulk lane close and open again.

use std::time::Duration;

/// A stage of the lifecycle that a job has just reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is taken from the broker, and was not delivered too often.
    Arrived,
    /// It has a permit, and the call has not begun.
    Permitted,
    /// The password is set, and nobody was told.
    Patched,
    /// Its notification or dead letter is confirmed.
    Notified,
    /// Its outcome is confirmed.
    Recorded,
    /// Its reply is confirmed, or there is none.
    Replied,
    /// It is published again, and this delivery is not acked.
    Again,
    /// The next hop took its mail, and nobody was told.
    Delivered,
}

/// Whether a test that is not root's looks at the memory of this process.
#[cfg(not(debug_assertions))]
pub const fn is_readable() -> bool {
    false
}

/// Whether a test that is not root's looks at the memory of this process.
#[cfg(debug_assertions)]
pub fn is_readable() -> bool {
    std::env::var_os("RESETD_FAILPOINT_READABLE").is_some()
}

/// The hour of the guard, where a test makes it shorter.
#[cfg(not(debug_assertions))]
pub const fn guard_hour() -> Option<Duration> {
    None
}

/// The hour of the guard, where a test makes it shorter.
#[cfg(debug_assertions)]
pub fn guard_hour() -> Option<Duration> {
    let seconds = std::env::var("RESETD_FAILPOINT_GUARD_HOUR").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Does what the test that runs this process asks for at this stage.
#[cfg(not(debug_assertions))]
pub fn reach(_stage: Stage, _job: &str) {}

/// Does what the test that runs this process asks for at this stage.
///
/// # Panics
/// Where it asks for that.
#[cfg(debug_assertions)]
pub fn reach(stage: Stage, job: &str) {
    use std::sync::LazyLock;
    static ASKED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("RESETD_FAILPOINT").ok());
    let Some(asked) = ASKED.as_deref() else { return };
    let here = format!("{stage:?}@{job}").to_lowercase();
    match asked.to_lowercase().strip_prefix(&here) {
        Some("=abort") => std::process::abort(),
        Some("=panic") => std::panic::panic_any("a failpoint"),
        Some("=pause") => {
            tracing::info!("held up at {here}");
            std::thread::sleep(Duration::from_millis(400));
        }
        Some(_) | None => {}
    }
}
