//! The binary: signals, the runtime, the exit code.

use std::alloc::System;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use resetd::cli::{self, Cli};
use resetd::domain::escape::EscapedLines;
#[cfg(target_os = "linux")]
use resetd::failpoint;
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroizing_alloc::ZeroAlloc;

/// All memory is zeroed where it is given back: libraries copy what they send, passwords too, and free their copies as they are.
#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    keep_memory_private();
    let cli = Cli::parse();
    raise_descriptors();
    let result = run(cli);
    if let Err(error) = &result {
        let _ = writeln!(std::io::stderr(), "resetd: {}", EscapedLines(format_args!("{error:#}")));
    }
    cli::exit_code(&result)
}

/// No core is dumped, and no other process of the same user attaches to this one or reads its memory; root may still (prctl(2),
/// `PR_SET_DUMPABLE`). Where that fails, it is as without.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    if !failpoint::is_readable() {
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// As many descriptors as the system allows: many start a process with 1,024, and connections to the broker, to the org and of who
/// looks at its health come on top of each other. Where that fails, the process has those that it has.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut started = {
        let _within = runtime.enter();
        cli::start_telemetry(&cli)?
    };
    let exporting = started.exporting.take();
    let result = runtime.block_on(async { cli::run(cli, started, shutdown()?).await });
    if let Some(exporting) = exporting {
        exporting.end();
    }
    // What is left, a lookup of a name for one, must not hold the process.
    runtime.shutdown_background();
    result
}

/// Cancelled by the first SIGTERM or SIGINT; the second ends the process at once.
fn shutdown() -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            if first.is_cancelled() {
                std::process::exit(1);
            }
            tracing::info!("ending: jobs in flight finish first; a second signal ends at once");
            first.cancel();
        }
    });
    Ok(token)
}
