//! What the broker's management API says of a cluster: which nodes there are, where a queue has fewer replicas than it could, and how
//! long the deliveries of a dead node are away.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::finding::Finding;
use crate::amqp::management::{Management, Unanswered};
use crate::amqp::names::Names;
use crate::amqp::topology::{self, Thing};
use crate::config::Config;
use crate::domain::delay_tier::Delays;
use crate::domain::job::Lane;
use crate::wire::management::{Node, Queue};

/// So many replicas bear the loss of a node; more cost speed and gain little. It is what the broker itself gives a queue by default.
const ENOUGH: usize = 3;
/// So many queues are asked for at once.
const AT_ONCE: usize = 8;
/// The first version that knows `consumer-disconnected-timeout`. Before it, what a dead node held comes back at once.
const WITH_TIMEOUT: (u32, u32) = (4, 3);
/// What the policy should say, in milliseconds: longer than a node's short absence, and no delay that anybody sees.
const TIMEOUT_MS: u32 = 5000;

/// All of it, or why it was not looked at. `version` is the oldest of the nodes that answered.
pub(super) async fn findings(config: &Config, version: Option<(u32, u32)>) -> Vec<Finding> {
    let Some(management) = Management::of(&config.amqp) else {
        let says = "not looked at: amqp.management_url is not set; docs/operations.md has the commands (\"Give every node a replica\")";
        return vec![Finding::ok("replicas", says)];
    };
    match management {
        Ok(management) => match seen(config, &management).await {
            Ok(seen) => seen.findings(version),
            Err(why) => vec![unanswered(Some(management.place()), &why)],
        },
        Err(why) => vec![unanswered(None, &why)],
    }
}

fn unanswered(place: Option<&str>, why: &Unanswered) -> Finding {
    let at = place.map(|place| format!(" at {place}")).unwrap_or_default();
    let cure = match why {
        Unanswered::Forbidden(_) => {
            "give its user the tag (rabbitmqctl set_user_tags USER monitoring), or correct user and password in amqp.management_url"
        }
        Unanswered::Failed(_) => {
            "correct amqp.management_url, or enable the API at that node (rabbitmq-plugins enable rabbitmq_management)"
        }
    };
    Finding::warn("replicas", format!("not looked at: the management API{at}: {why}"), cure)
}

/// What it said.
#[derive(Debug, Default)]
struct Seen {
    vhost: String,
    prefix: String,
    nodes: Vec<Node>,
    /// Those that are there, by their names.
    queues: BTreeMap<String, Queue>,
    /// The names of those that are consumed and held from.
    held: BTreeSet<String>,
}

async fn seen(config: &Config, management: &Management) -> Result<Seen, Unanswered> {
    let mut seen = Seen { prefix: config.amqp.prefix.clone(), nodes: management.nodes().await?, ..Seen::default() };
    seen.vhost = config.amqp.uri().map(|uri| uri.vhost).unwrap_or_default();
    let mut names = BTreeSet::new();
    for org in config.org_names() {
        let of_org = Names::new(&config.amqp.prefix, org);
        seen.held.extend(Lane::ALL.map(|lane| of_org.lane(lane)));
        seen.held.insert(of_org.emails());
        let delays = Delays::default();
        let things = topology::things(&of_org, &delays).into_iter().chain(topology::mailers_things(&of_org, &delays));
        names.extend(things.filter_map(|thing| match thing {
            Thing::Queue { name, .. } => Some(name),
            Thing::Exchange { .. } | Thing::Binding { .. } => None,
        }));
    }
    if seen.nodes.len() > 1 {
        let asked = stream::iter(names).map(async |name| {
            let queue = management.queue(&name).await?;
            Ok(queue.map(|queue| (name, queue)))
        });
        seen.queues = asked.buffer_unordered(AT_ONCE).try_filter_map(async |queue| Ok(queue)).try_collect().await?;
    }
    Ok(seen)
}

impl Seen {
    fn findings(&self, version: Option<(u32, u32)>) -> Vec<Finding> {
        if self.nodes.len() < 2 {
            return vec![Finding::ok("replicas", "the broker is one node: each queue is there alone")];
        }
        let mut findings = vec![self.of_nodes(), self.replicas()];
        findings.extend(self.timeout().filter(|_| version.is_some_and(|version| version >= WITH_TIMEOUT)));
        findings
    }

    fn of_nodes(&self) -> Finding {
        let down: Vec<&str> = self.nodes.iter().filter(|node| !node.running).map(|node| node.name.as_str()).collect();
        let all = self.nodes.len();
        if down.is_empty() {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            return Finding::ok("nodes", format!("all {all} run: {}", names.join(", ")));
        }
        Finding::warn(
            "nodes",
            format!("{} of {all} run; not these: {}", all - down.len(), down.join(", ")),
            "start them; one that never comes back: rabbitmqctl forget_cluster_node NODE",
        )
    }

    /// Where a queue, or the stream, was declared while the cluster had fewer nodes.
    fn replicas(&self) -> Finding {
        let wanted = self.nodes.len().min(ENOUGH);
        let mut few: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
        let (mut unknown, mut commands) = (Vec::new(), BTreeSet::new());
        for (name, queue) in &self.queues {
            match &queue.members {
                None => unknown.push(name.as_str()),
                Some(members) if members.len() < wanted => {
                    few.entry(members).or_default().push(name);
                    let missing = self.nodes.iter().filter(|node| node.running && !members.contains(&node.name));
                    commands
                        .extend(missing.take(wanted - members.len()).map(|node| self.grow(name, queue, &node.name)));
                }
                Some(_) => {}
            }
        }
        if few.is_empty() && unknown.is_empty() {
            let says = format!("each of the {} queues that are there has {wanted} or more", self.queues.len());
            return Finding::ok("replicas", says);
        }
        let each = few.iter().map(|(members, names)| match members.len() {
            1 => format!("on {} alone: {}", members.join(""), names.join(", ")),
            _ => format!("on {} alone: {}", members.join(" and "), names.join(", ")),
        });
        let mut says: Vec<String> = each.collect();
        if !unknown.is_empty() {
            says.push(format!("not known yet: {}", unknown.join(", ")));
        }
        let says = format!("{} nodes, and not {wanted} replicas of each queue; {}", self.nodes.len(), says.join("; "));
        let cure = match (commands.is_empty(), few.is_empty()) {
            (true, true) => "look again in some seconds".to_owned(),
            (true, false) => "start the nodes that are down, and look again".to_owned(),
            (false, _) => commands.into_iter().collect::<Vec<_>>().join("; "),
        };
        Finding::warn("replicas", says, cure)
    }

    /// What to type; for quorum queues one command for all.
    fn grow(&self, name: &str, queue: &Queue, node: &str) -> String {
        if queue.is_stream() {
            return format!("rabbitmq-streams add_replica --vhost {} {name} {node}", quoted(&self.vhost));
        }
        let vhost = quoted(&format!("^{}$", literal(&self.vhost)));
        let queues = quoted(&format!("^{}(resets|emails)", literal(&self.prefix)));
        format!("rabbitmq-queues grow {node} all --vhost-pattern {vhost} --queue-pattern {queues}")
    }

    /// From 4.3 on, what a dead node's consumers held comes back after 60 s unless a policy says otherwise.
    fn timeout(&self) -> Option<Finding> {
        let held: Vec<(&String, &Queue)> = self.queues.iter().filter(|(name, _)| self.held.contains(*name)).collect();
        if held.is_empty() {
            return None;
        }
        let without = held.iter().filter(|(_, queue)| queue.disconnected_timeout().is_none());
        let (names, policies): (Vec<&str>, BTreeSet<Option<&str>>) =
            without.map(|(name, queue)| (name.as_str(), queue.policy.as_deref())).unzip();
        if names.is_empty() {
            let longest = held.iter().filter_map(|(_, queue)| queue.disconnected_timeout()).max().unwrap_or_default();
            let says = format!("jobs and mails in flight at a node that dies come back after {longest:?} at most");
            return Some(Finding::ok("dead node", says));
        }
        let says = format!(
            "jobs and mails in flight at a node that dies come back after 60 s: no consumer-disconnected-timeout for {}",
            names.join(", ")
        );
        let theirs: Vec<&str> = policies.into_iter().flatten().collect();
        if !theirs.is_empty() {
            let cure = format!(
                "add \"consumer-disconnected-timeout\": {TIMEOUT_MS} to their policy, {}: only one applies to a queue",
                theirs.join(", ")
            );
            return Some(Finding::warn("dead node", says, cure));
        }
        let lanes = one_of(&Lane::NAMES[1..]);
        let pattern = format!("^{}(resets\\.[a-z0-9_]+(\\.{lanes})?|emails)$", literal(&self.prefix));
        let cure = format!(
            "rabbitmqctl set_policy -p {} resetd-dead-node {} '{{\"consumer-disconnected-timeout\":{TIMEOUT_MS}}}' --apply-to quorum_queues",
            quoted(&self.vhost),
            quoted(&pattern)
        );
        Some(Finding::warn("dead node", says, cure))
    }
}

/// A name as a regular expression that means it alone.
fn literal(name: &str) -> String {
    name.chars().fold(String::new(), |mut escaped, c| {
        if !c.is_ascii_alphanumeric() && c.is_ascii() && !"/_- ".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

/// A regular expression that means one of these names.
fn one_of(names: &[&str]) -> String {
    if let [name] = names { (*name).to_owned() } else { format!("({})", names.join("|")) }
}

/// As one word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded: `tests/it/operator/management.rs` says how.
    macro_rules! recorded {
        ($name:literal) => {
            serde_json::from_str(include_str!(concat!("../../../tests/it/operator/management/", $name, ".json")))
                .unwrap()
        };
    }

    fn one() -> Queue {
        recorded!("quorum-of-one")
    }

    fn three() -> Queue {
        recorded!("quorum-of-three")
    }

    fn seen(nodes: Vec<Node>, queues: Vec<(&str, Queue)>) -> Seen {
        let queues: BTreeMap<String, Queue> =
            queues.into_iter().map(|(name, queue)| (name.to_owned(), queue)).collect();
        let held = ["a.resets.main", "a.resets.main.bulk", "a.emails"].map(String::from).into();
        Seen { vhost: "/".into(), prefix: "a.".into(), nodes, queues, held }
    }

    fn text(seen: &Seen, version: (u32, u32)) -> String {
        super::super::finding::text(&seen.findings(Some(version)), false)
    }

    #[test]
    fn a_queue_declared_while_one_node_was_alone_is_named_with_what_to_type() {
        let mut unknown = three();
        unknown.members = None;
        let queues = vec![
            ("a.resets.main", one()),
            ("a.resets.main.bulk", three()),
            ("a.resets.main.dead", unknown),
            ("a.resets.outcomes", recorded!("stream-of-one")),
        ];
        insta::assert_snapshot!(text(&seen(recorded!("nodes"), queues.clone()), (4, 0)), @r#"
        ok    nodes     all 3 run: rabbit@n1, rabbit@n2, rabbit@n3
        warn  replicas  3 nodes, and not 3 replicas of each queue; on rabbit@n1 alone: a.resets.main, a.resets.outcomes; not known yet: a.resets.main.dead
                        -> rabbitmq-queues grow rabbit@n2 all --vhost-pattern '^/$' --queue-pattern '^a\.(resets|emails)'; rabbitmq-queues grow rabbit@n3 all --vhost-pattern '^/$' --queue-pattern '^a\.(resets|emails)'; rabbitmq-streams add_replica --vhost / a.resets.outcomes rabbit@n2; rabbitmq-streams add_replica --vhost / a.resets.outcomes rabbit@n3
        "#);
        let odd = Seen { vhost: "it's".into(), ..seen(recorded!("nodes-one-down"), queues) };
        let policy = format!(r"'^a\.(resets\.[a-z0-9_]+(\.{})?|emails)$'", one_of(&Lane::NAMES[1..]));
        insta::assert_snapshot!(text(&odd, (4, 3)).replace(&policy, "PATTERN"), @r#"
        warn  nodes      2 of 3 run; not these: rabbit@n3
                         -> start them; one that never comes back: rabbitmqctl forget_cluster_node NODE
        warn  replicas   3 nodes, and not 3 replicas of each queue; on rabbit@n1 alone: a.resets.main, a.resets.outcomes; not known yet: a.resets.main.dead
                         -> rabbitmq-queues grow rabbit@n2 all --vhost-pattern '^it\'\''s$' --queue-pattern '^a\.(resets|emails)'; rabbitmq-streams add_replica --vhost 'it'\''s' a.resets.outcomes rabbit@n2
        warn  dead node  jobs and mails in flight at a node that dies come back after 60 s: no consumer-disconnected-timeout for a.resets.main, a.resets.main.bulk
                         -> rabbitmqctl set_policy -p 'it'\''s' resetd-dead-node PATTERN '{"consumer-disconnected-timeout":5000}' --apply-to quorum_queues
        "#);
    }

    #[test]
    fn a_pattern_means_one_lane_or_one_of_several() {
        assert_eq!(one_of(&["bulk"]), "bulk");
        assert_eq!(one_of(&["express", "bulk"]), "(express|bulk)");
    }

    #[test]
    fn three_replicas_are_enough_and_a_policy_for_a_dead_node_is_seen() {
        let mut nodes: Vec<Node> = recorded!("nodes");
        nodes.extend(["rabbit@n4", "rabbit@n5"].map(|name| Node { name: name.into(), running: true }));
        let with_policy: Queue = recorded!("quorum-with-policy");
        let queues = vec![("a.resets.main", with_policy.clone()), ("a.emails", with_policy.clone())];
        insta::assert_snapshot!(text(&seen(nodes.clone(), queues), (4, 3)), @r#"
        ok    nodes      all 5 run: rabbit@n1, rabbit@n2, rabbit@n3, rabbit@n4, rabbit@n5
        ok    replicas   each of the 2 queues that are there has 3 or more
        ok    dead node  jobs and mails in flight at a node that dies come back after 5s at most
        "#);
        // A policy of their own takes the place of ours.
        let mut theirs = three();
        theirs.policy = Some("ha".into());
        let queues = vec![("a.resets.main", theirs), ("a.emails", with_policy)];
        insta::assert_snapshot!(text(&seen(nodes, queues), (4, 3)), @r#"
        ok    nodes      all 5 run: rabbit@n1, rabbit@n2, rabbit@n3, rabbit@n4, rabbit@n5
        ok    replicas   each of the 2 queues that are there has 3 or more
        warn  dead node  jobs and mails in flight at a node that dies come back after 60 s: no consumer-disconnected-timeout for a.resets.main
                         -> add "consumer-disconnected-timeout": 5000 to their policy, ha: only one applies to a queue
        "#);
        let alone = vec![Node { name: "rabbit@n1".into(), running: true }];
        insta::assert_snapshot!(text(&seen(alone, Vec::new()), (4, 3)), @r#"
        ok    replicas  the broker is one node: each queue is there alone
        "#);
    }
}
