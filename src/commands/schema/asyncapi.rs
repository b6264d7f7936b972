//! The AsyncAPI 3 document: which exchange or queue each message goes through, from the worker's side, and what it holds.

use serde_json::{Value, json};

use crate::amqp::names::Names;
use crate::domain::job::Lane;
use crate::wire::{batch, dead_letter, dead_mail, job, ledger, letter, mail, notification, outcome, properties};

/// Of AsyncAPI's AMQP bindings.
const BINDINGS: &str = "0.3.0";
/// What stands for an org's name in an address.
const ORG: &str = "{org}";

/// The document. Names are without `amqp.prefix`.
pub(super) fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "resetd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Resets passwords at Genesys Cloud: jobs in, notifications and outcomes out, over RabbitMQ (AMQP 0-9-1). All messages are persistent JSON in UTF-8. Names are without the configuration's amqp.prefix, which stands before every exchange's and queue's name and before no routing key.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels(),
        "operations": operations(),
        "components": {"messages": messages()},
    })
}

fn channels() -> Value {
    let names = Names::new("", ORG);
    let org = json!({"org": {"description": "The org's name in the worker's configuration."}});
    let of_lane = |lane: Lane| {
        let [title, _] = Lane::JOBS[lane.index()];
        json!({
            "address": names.lane_key(lane), "title": title, "parameters": org, "messages": carries(&["job"]),
            "bindings": exchange(&names.resets(), "direct"),
        })
    };
    let others = json!({
        "replies": {
            "address": null, "title": "The queue that a job's reply_to names", "messages": carries(&["reply"]),
        },
        "emails": {
            "address": names.emails(), "title": "Messages for people", "messages": carries(&["notification", "sealedNotification"]),
            "bindings": queue(&names.emails()),
        },
        "outcomes": {
            "address": format!("{ORG}.{{record}}"), "title": "What became of each job", "messages": carries(&["outcome", "mail", "batch", "dropped"]),
            "description": format!("A topic exchange: bind a queue of your own. The stream {} keeps 7 days of it.", names.ledger()),
            "parameters": {
                "org": org["org"],
                "record": {"description": "An outcome's name, notified, notification_failed, batch or dropped; the AMQP property type says which message it is. Pass over types that are not known to you."},
            },
            "bindings": exchange(&names.outcomes(), "topic"),
        },
        "deadLetters": {
            "address": names.dead(), "title": "Jobs that were given up", "parameters": org, "messages": carries(&["deadLetter"]),
            "bindings": queue(&names.dead()),
        },
        "deadMails": {
            "address": names.emails_dead(), "title": "Mails that were given up", "messages": carries(&["deadMail"]),
            "bindings": queue(&names.emails_dead()),
        },
    });
    joined(Lane::ALL.map(|lane| (channel(lane), of_lane(lane))), others)
}

/// The channel of a lane.
fn channel(lane: Lane) -> String {
    if lane == Lane::FIRST { "jobs".to_owned() } else { format!("{}Jobs", lane.as_str()) }
}

/// What takes a job of a lane.
fn taking(lane: Lane) -> String {
    if lane == Lane::FIRST {
        return "takeJob".to_owned();
    }
    let (first, rest) = lane.as_str().split_at(1);
    format!("take{}{rest}Job", first.to_ascii_uppercase())
}

/// One object, what is of the lanes first.
fn joined(lanes: [(String, Value); Lane::COUNT], others: Value) -> Value {
    let Value::Object(others) = others else { unreachable!("it is written as an object above") };
    lanes.into_iter().chain(others).collect()
}

fn operations() -> Value {
    let take = |channel: &str, title: &str| {
        json!({
            "action": "receive", "channel": {"$ref": format!("#/channels/{channel}")}, "title": title,
            "bindings": {"amqp": {"ack": true, "bindingVersion": BINDINGS}},
            "reply": {
                "address": {"location": "$message.header#/reply_to", "description": "The job's AMQP property reply_to; the reply has the job's correlation_id."},
                "channel": {"$ref": "#/channels/replies"},
            },
        })
    };
    let send = |channel: &str, title: &str| {
        json!({
            "action": "send", "channel": {"$ref": format!("#/channels/{channel}")}, "title": title,
            "bindings": {"amqp": {"deliveryMode": 2, "mandatory": true, "bindingVersion": BINDINGS}},
        })
    };
    let others = json!({
        "tellThePerson": send("emails", "Tell the person, once the password is set"),
        "sayTheOutcome": send("outcomes", "Say what became of a job"),
        "giveUp": send("deadLetters", "Give a job up"),
        "giveUpMail": send("deadMails", "Give a mail up"),
    });
    let of_lane = |lane: Lane| {
        let [_, job] = Lane::JOBS[lane.index()];
        (taking(lane), take(&channel(lane), &format!("Take {job}")))
    };
    joined(Lane::ALL.map(of_lane), others)
}

fn messages() -> Value {
    json!({
        "job": {
            "title": "Job", "contentType": "application/json", "payload": job::schema::schema(), "headers": properties::headers_schema(),
            "description": "AMQP properties, all optional: message_id (the job's id; give it one, so that it is done once), timestamp (when the reset was asked for), reply_to and correlation_id (the outcome is sent there). Publish it persistent, mandatory and confirmed.",
        },
        "notification": {
            "title": "Notification", "payload": notification::schema(), "headers": notification::headers_schema(), "bindings": kind(notification::TYPE),
            "description": "AMQP properties: message_id is the notificationId, correlation_id the job's id, timestamp when that job was asked for, where it says so, expiration the worker's notification.ttl, and an hour more where a mailer takes part (mailer.enabled).",
        },
        "sealedNotification": {
            "title": "Sealed notification", "payload": notification::sealed_schema(), "bindings": kind(notification::TYPE),
            "description": "What a notification is where the worker's notification.seal_to is set; its properties are the same.",
        },
        "outcome": {"title": "Outcome", "payload": outcome::schema(), "bindings": kind(outcome::TYPE)},
        "reply": {"title": "Reply", "payload": outcome::reply_schema(), "bindings": kind(outcome::TYPE)},
        "mail": {"title": "Mail", "payload": mail::schema(), "bindings": kind(mail::TYPE)},
        "deadMail": {
            "title": "Dead mail", "payload": dead_mail::schema(), "headers": dead_mail::headers_schema(),
            "description": "What is left of a notification whose mail was given up: never the password, and of a message that is no notification only what could be read.",
        },
        "batch": {"title": "Batch", "payload": batch::schema(), "bindings": kind(batch::BATCH)},
        "dropped": {"title": "Dropped", "payload": letter::schema(), "bindings": kind(ledger::DROPPED)},
        "deadLetter": {
            "title": "Dead letter", "headers": dead_letter::headers_schema(),
            "description": "The job's body, in which what stands under the name of a secret is true, and its properties. The body is empty where it was too large or could not be kept.",
        },
    })
}

/// The messages of a channel.
fn carries(messages: &[&str]) -> Value {
    let each =
        messages.iter().map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/messages/{name}")})));
    Value::Object(each.collect())
}

fn exchange(name: &str, kind: &str) -> Value {
    let exchange = json!({"name": name, "type": kind, "durable": true, "autoDelete": false});
    json!({"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": BINDINGS}})
}

fn queue(name: &str) -> Value {
    let queue = json!({"name": name, "durable": true, "exclusive": false, "autoDelete": false});
    json!({"amqp": {"is": "queue", "queue": queue, "bindingVersion": BINDINGS}})
}

fn kind(name: &str) -> Value {
    json!({"amqp": {"messageType": name, "bindingVersion": BINDINGS}})
}
