//! `resetd completions SHELL`: what makes a shell complete the command line by the tab key.

use anyhow::Result;
use clap::Command;

use super::stdout;

/// The flags of `resetd completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  resetd completions bash > /etc/bash_completion.d/resetd
  resetd completions zsh > \"${fpath[1]}/_resetd\"
  resetd completions fish > ~/.config/fish/completions/resetd.fish")]
pub struct Args {
    /// The shell it is for.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// The shells there is a script for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Writes the script to standard output.
///
/// # Errors
/// Where it cannot be written.
pub fn run(args: &Args, mut command: Command) -> Result<()> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "resetd", &mut script);
    stdout::say(String::from_utf8_lossy(&script).trim_end())
}
