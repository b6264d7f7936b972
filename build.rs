//! The version with its commit, for `resetd --version`: the commit is `RESETD_COMMIT` where that is set (a build of the image has no
//! `.git`), or else what git says; without either the version stands alone.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RESETD_COMMIT");
    let given = std::env::var("RESETD_COMMIT").ok().filter(|commit| !commit.trim().is_empty());
    let version = env!("CARGO_PKG_VERSION");
    let version = match given.or_else(of_git) {
        Some(commit) => format!("{version} ({})", commit.trim()),
        None => version.to_owned(),
    };
    println!("cargo::rustc-env=RESETD_VERSION={version}");
}

/// The commit that is checked out here. A folder that is no checkout of its own has none, though one above it may have.
fn of_git() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // HEAD changes with the branch; its log, and what it names, with each commit. In a worktree they lie in two places, and git knows
    // both. What is not there is left out: cargo would build anew each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git answers in one line; nothing where there is no git, or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let answer = Command::new("git").args(arguments).output().ok().filter(|answer| answer.status.success())?;
    Some(String::from_utf8(answer.stdout).ok()?.trim().to_owned()).filter(|line| !line.is_empty())
}
