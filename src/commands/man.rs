//! `resetd man`: the manual pages, one for the program and one for each subcommand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;

use super::stdout;
use crate::config::ConfigError;

/// The flags of `resetd man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  resetd man | man -l -
  resetd man dead replay | man -l -
  resetd man --into /usr/local/share/man/man1")]
pub struct Args {
    /// The subcommand whose page it is, such as dead replay; the program's own where none is said.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write all pages into this folder: resetd.1, resetd-worker.1 and so on.
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    into: Option<PathBuf>,
}

/// Writes one page to standard output, or all of them into a folder.
///
/// # Errors
/// Where there is no such subcommand, or a page cannot be written.
pub fn run(args: &Args, mut command: Command) -> Result<()> {
    command = without_help(command);
    command.build();
    if let Some(folder) = &args.into {
        return write(&command, folder)
            .with_context(|| format!("{}: the pages cannot be written there; it must be a folder", folder.display()));
    }
    let mut page = &command;
    for name in &args.command {
        page = page.find_subcommand(name).ok_or_else(|| {
            let names: Vec<&str> = page.get_subcommands().map(Command::get_name).collect();
            let wants = if names.is_empty() { "left out".to_owned() } else { format!("one of {}", names.join(", ")) };
            ConfigError::wrong("COMMAND", format_args!("{name:?}"), &wants)
        })?;
    }
    let mut roff = Vec::new();
    man(page).render(&mut roff)?;
    stdout::say(String::from_utf8_lossy(&roff).trim_end())
}

fn man(command: &Command) -> Man {
    Man::new(command.clone()).source(concat!("resetd ", env!("CARGO_PKG_VERSION"))).manual("resetd")
}

/// The page of a command, and those of its subcommands.
fn write(command: &Command, folder: &Path) -> std::io::Result<()> {
    man(command).generate_to(folder)?;
    command.get_subcommands().try_for_each(|below| write(below, folder))
}

/// `resetd help` tells what the pages tell, and has none of its own.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
