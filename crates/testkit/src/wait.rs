//! Waiting for an event, with a limit.

use std::time::{Duration, Instant};

/// As long as any one thing may take before a test gives up on it, beside nine others and a machine that compiles.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Looks until it is so, 50 times a second, with a limit.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
