//! What is done with dead letters.

/// What becomes of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// A fresh job in its lane.
    Replay,
    /// A record that it was dropped.
    Drop,
}

impl Action {
    pub(super) fn asks(self) -> &'static str {
        match self {
            Self::Replay => "Replay",
            Self::Drop => "Drop",
        }
    }

    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }
}
