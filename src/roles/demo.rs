//! `resetd demo`.
use crate::config::Environment;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;
/// x
pub async fn run(_files: &[PathBuf], _environment: Environment, _shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(())
}
