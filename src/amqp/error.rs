//! What can be wrong with the broker, named by what is done next, in words that say what to do.

use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};

use super::tls;
use crate::config::ConfigError;
use crate::domain::escape::escaped;

/// What all versions say, in different words around it, where a stream cannot be read at a node: it has no replica there, or none that
/// runs yet. It is a 406, as another argument is: `docs/development/facts.md#replicas`.
const NO_REPLICA: &str = "replica on the local node";
/// What helps where that lasts.
const REPLICA: &str = "it is tried again, and by another address where there is one; where it stays so, give the stream a replica at this node (rabbitmq-streams add_replica)";

/// Something between us and the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It goes away by itself: try again.
    #[error("{0}")]
    Retry(String),
    /// What was asked for is not there (404 NOT_FOUND). A worker declares all it uses, and tries again; who only looks may say so.
    #[error("{0}")]
    Missing(String),
    /// Somebody must fix it; trying again only shows when they did.
    #[error("{0}")]
    NeedsOperator(String),
    /// The configuration asks for more than this broker gives: somebody must change one of both.
    #[error("{0}")]
    Misfit(String),
}

impl BrokerError {
    /// Whether it stays until somebody does something.
    pub fn stays(&self) -> bool {
        match self {
            Self::NeedsOperator(_) | Self::Misfit(_) => true,
            Self::Retry(_) | Self::Missing(_) => false,
        }
    }

    /// Whether it is one node's alone: another may have what is asked for.
    pub(super) fn is_of_the_node(&self) -> bool {
        match self {
            Self::Retry(why) => why.contains(NO_REPLICA),
            Self::Missing(_) | Self::NeedsOperator(_) | Self::Misfit(_) => false,
        }
    }

    /// Whether the broker refused what was asked of it, which costs a connection one of its channels.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NeedsOperator(_) | Self::Missing(_) => true,
            Self::Retry(_) | Self::Misfit(_) => false,
        }
    }

    /// The same, of something that was tried.
    pub(super) fn of(self, what: &str) -> Self {
        let of = |why| format!("{what}: {why}");
        match self {
            Self::Retry(why) => Self::Retry(of(why)),
            Self::Missing(why) => Self::Missing(of(why)),
            Self::NeedsOperator(why) => Self::NeedsOperator(of(why)),
            Self::Misfit(why) => Self::Misfit(of(why)),
        }
    }

    /// As what ends the process: a misfit is the configuration's.
    pub fn ends(self) -> anyhow::Error {
        match self {
            Self::Misfit(why) => ConfigError::new(why).into(),
            trouble @ (Self::Retry(_) | Self::Missing(_) | Self::NeedsOperator(_)) => trouble.into(),
        }
    }
}

/// Where the configuration's URL has no parts, which it was looked through for when it was read.
pub(super) fn unreadable() -> BrokerError {
    BrokerError::NeedsOperator("amqp.url cannot be read".into())
}

/// How long any single answer of the broker may take.
pub const ANSWER: Duration = Duration::from_secs(10);

/// An await on the broker, with its limit. `what` says what was tried, such as "declaring queue resets.main".
///
/// # Errors
/// Where the broker refuses it, is lost, or does not answer in time.
pub async fn within<T>(what: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(what, &error)),
        Err(_) => Err(silent(what)),
    }
}

/// Where no answer comes.
pub(super) fn silent(what: &str) -> BrokerError {
    silence().of(what)
}

/// The same without what was tried.
pub(super) fn silence() -> BrokerError {
    BrokerError::Retry(format!("the broker did not answer within {} s", ANSWER.as_secs()))
}

/// How long a goodbye may take: what is not closed by then is closed with its connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// A goodbye to the broker, which nothing depends on.
pub async fn closing(goodbye: impl Future<Output = lapin::Result<()>>) {
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

/// Puts an error into words: what was tried, what the broker said, and what to do where somebody must fix it.
pub fn explain(what: &str, error: &Error) -> BrokerError {
    meaning(error).of(what)
}

/// The same without what was tried.
pub(super) fn meaning(error: &Error) -> BrokerError {
    if let ErrorKind::IOError(error) = error.kind()
        && let Some(disagreement) = tls::disagreement(error)
    {
        return BrokerError::NeedsOperator(disagreement);
    }
    if matches!(error.kind(), ErrorKind::ChannelsLimitReached) {
        return BrokerError::Retry(
            "no channel is left on its connection (channel_max of the broker); it is made anew".into(),
        );
    }
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return BrokerError::Retry(escaped(&error.to_string()).into_owned());
    };
    let said = escaped(amqp.get_message().as_str());
    if said.contains(NO_REPLICA) {
        return BrokerError::Retry(format!("{said}; {REPLICA}"));
    }
    let cure = match amqp.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => return BrokerError::Missing(said.into_owned()),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Some(
            "it exists with other arguments; nothing was deleted: empty and delete it, or set amqp.prefix to work beside it",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(
            "give the user of amqp.url the right to configure, write and read it (rabbitmqctl set_permissions), or correct user and password",
        ),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some(
            "the vhost of amqp.url does not exist or its user may not enter it: create it (rabbitmqctl add_vhost, set_permissions), or correct amqp.url",
        ),
        AMQPErrorKind::Soft(
            AMQPSoftError::CONTENTTOOLARGE
            | AMQPSoftError::NOCONSUMERS
            | AMQPSoftError::NOROUTE
            | AMQPSoftError::RESOURCELOCKED,
        )
        | AMQPErrorKind::Hard(
            AMQPHardError::CONNECTIONFORCED
            | AMQPHardError::INVALIDPATH
            | AMQPHardError::FRAMEERROR
            | AMQPHardError::SYNTAXERROR
            | AMQPHardError::COMMANDINVALID
            | AMQPHardError::CHANNELERROR
            | AMQPHardError::UNEXPECTEDFRAME
            | AMQPHardError::RESOURCEERROR
            | AMQPHardError::NOTIMPLEMENTED
            | AMQPHardError::INTERNALERROR,
        ) => None,
    };
    match cure {
        Some(cure) => BrokerError::NeedsOperator(format!("{said}; {cure}")),
        None => BrokerError::Retry(said.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn meant(kind: AMQPErrorKind, said: &str) -> BrokerError {
        explain("reading stream resets.outcomes", &ErrorKind::ProtocolError(AMQPError::new(kind, said.into())).into())
    }

    /// What 3.10, what 4.3, and what a version in between says.
    #[test]
    fn a_stream_without_a_replica_at_the_node_is_tried_again_and_never_to_be_deleted() {
        for said in [
            "PRECONDITION_FAILED - queue 'resets.outcomes' in vhost '/' does not a have a replica on the local node",
            "PRECONDITION_FAILED - queue 'resets.outcomes' in vhost '/' does not have a replica on the local node",
            "PRECONDITION_FAILED - stream queue 'resets.outcomes' in vhost '/' does not have a running replica on the local node",
        ] {
            let error = meant(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED), said);
            assert!(matches!(error, BrokerError::Retry(_)) && error.is_of_the_node(), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(said) && text.contains("add_replica") && text.contains("tried again"), "{text}");
            assert!(!text.contains("delete") && !text.contains("other arguments"), "{text}");
        }
    }

    /// Queues are named by others, and who stands in for the broker says what it likes.
    #[test]
    fn what_the_broker_says_is_one_line() {
        let said = "CONNECTION_FORCED - \u{9b}2K\nresetd: 100 jobs queued\u{202e}";
        for kind in [
            AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED),
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED),
        ] {
            let text = meant(kind, said).to_string();
            assert!(text.contains(r"\u{9b}2K\nresetd: 100 jobs queued\u{202e}"), "{text}");
            assert!(!text.contains(crate::domain::escape::is_hidden), "{text}");
        }
    }

    #[test]
    fn another_argument_needs_an_operator_and_an_internal_error_is_tried_again() {
        let other = "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'resets.outcomes' in vhost '/'";
        let error = meant(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED), other);
        assert!(matches!(error, BrokerError::NeedsOperator(_)) && !error.is_of_the_node(), "{error:?}");
        let internal = meant(AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR), "INTERNAL_ERROR");
        assert!(matches!(internal, BrokerError::Retry(_)) && !internal.is_of_the_node(), "{internal:?}");
    }
}
