//! Answers of RabbitMQ's management API, as far as they are read (3.10 to 4.3).

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// In a queue's arguments, after `x-`, and in policies.
const DISCONNECTED: &str = "consumer-disconnected-timeout";

/// One of `GET /api/nodes`.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// Such as `rabbit@n1`.
    pub name: String,
    /// Whether it runs.
    #[serde(default)]
    pub running: bool,
}

/// `GET /api/queues/VHOST/NAME`.
#[derive(Debug, Clone, Deserialize)]
pub struct Queue {
    /// The nodes that have a replica; `None` while the statistics do not say.
    pub members: Option<Vec<String>>,
    /// Such as `quorum` or `stream`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The one policy that applies.
    pub policy: Option<String>,
    #[serde(default)]
    arguments: Value,
    /// An empty one is an empty list in some versions.
    #[serde(default)]
    effective_policy_definition: Value,
}

impl Queue {
    /// How long a node may be gone until what its consumers held is delivered again, where an argument or a policy says so.
    pub fn disconnected_timeout(&self) -> Option<Duration> {
        let argument = self.arguments.get(format!("x-{DISCONNECTED}"));
        let value = argument.or_else(|| self.effective_policy_definition.get(DISCONNECTED))?;
        value.as_u64().map(Duration::from_millis)
    }

    /// Whether it is a stream.
    pub fn is_stream(&self) -> bool {
        self.kind.as_deref() == Some("stream")
    }
}

/// What it says where it gives no answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// Such as `Not monitor user`.
    pub reason: String,
}
