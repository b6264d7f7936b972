//! The way to `scripts/broker serve` or `scripts/cluster serve`: a command goes in, its answer comes out.

use std::io::{BufRead, Write};

pub(crate) struct Pipe {
    commands: Box<dyn Write + Send>,
    answers: Box<dyn BufRead + Send>,
}

impl Pipe {
    pub(crate) fn new(commands: impl Write + Send + 'static, answers: impl BufRead + Send + 'static) -> Self {
        Self { commands: Box::new(commands), answers: Box::new(answers) }
    }

    pub(crate) fn ask(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the script listens");
    }

    /// One line; empty where the script has ended.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script answers");
        line.trim_end().to_owned()
    }
}
