//! The broker: whether it lets this user in and takes messages, and for each org its things, its rights and who leads.

use lapin::Connection;

use super::finding::Finding;
use super::{addresses, cluster};
use crate::amqp::error::{BrokerError, closing};
use crate::amqp::greeting::greetings;
use crate::amqp::inspect::{self, Standing};
use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::topology::{self, DELIVERY_LIMIT, Thing};
use crate::config::Config;
use crate::domain::delay_tier::Delays;
use crate::domain::job::Lane;

/// Everything of the broker; where it cannot be reached, that alone.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let heard = greetings(&config.amqp).await;
    let version = addresses::oldest(&heard);
    let mut findings = match addresses::findings(heard) {
        Ok(findings) => findings,
        Err(finding) => return vec![finding],
    };
    match connections(config).await {
        Err(trouble) => {
            findings.push(failed("login", &trouble, "correct user, password and vhost in amqp.url"));
        }
        Ok((looking, publishing)) => {
            findings.push(Finding::ok("login", "user, password and vhost are right"));
            let (alarm, takes) = alarm(&publishing).await;
            findings.push(alarm);
            findings.extend(cluster::findings(config, version).await);
            for org in config.org_names() {
                let names = Names::new(&config.amqp.prefix, org);
                findings.extend(of_org(config, takes, &names).await.into_iter().map(|finding| finding.of(org)));
            }
            goodbye(looking, publishing).await;
        }
    }
    findings
}

fn failed(what: &'static str, trouble: &BrokerError, cure: &str) -> Finding {
    Finding::fail(what, trouble.to_string(), cure)
}

/// Whether it takes messages, in words and for what follows.
async fn alarm(publishing: &Connection) -> (Finding, bool) {
    match inspect::is_blocked(publishing).await {
        Ok(false) => (Finding::ok("alarm", "none: it takes messages"), true),
        Ok(true) => {
            let says = "it takes no messages: a resource alarm (memory or disk) is on";
            (
                Finding::fail(
                    "alarm",
                    says,
                    "free memory or disk at the broker (rabbitmq-diagnostics alarms); meanwhile no one is reset",
                ),
                false,
            )
        }
        Err(trouble) => (failed("alarm", &trouble, "try again"), false),
    }
}

/// How an org's things stand.
#[derive(Default)]
struct Stand {
    there: Vec<Thing>,
    missing: Vec<String>,
    wrong: Vec<String>,
    forbidden: Vec<String>,
}

/// Both connections of a look at the broker.
async fn connections(config: &Config) -> Result<(Connection, Connection), BrokerError> {
    tokio::try_join!(
        link::connect(&config.amqp, "resetd check (looking)"),
        link::connect(&config.amqp, "resetd check (publishing)")
    )
}

/// On connections of its own: many of the answers are refusals, each of which costs a channel for as long as its connection lives.
async fn of_org(config: &Config, takes: bool, names: &Names) -> Vec<Finding> {
    let (looking, publishing) = match connections(config).await {
        Ok(connections) => connections,
        Err(trouble) => return vec![failed("topology", &trouble, "try again; a worker would too")],
    };
    let findings = of_org_by(&looking, takes.then_some(&publishing), names).await;
    goodbye(looking, publishing).await;
    findings
}

async fn goodbye(looking: Connection, publishing: Connection) {
    let goodbye = |connection| closing(Connection::close(connection, 200, "bye".into()));
    tokio::join!(goodbye(&looking), goodbye(&publishing));
}

async fn of_org_by(looking: &Connection, publishing: Option<&Connection>, names: &Names) -> Vec<Finding> {
    let stand = match stand(looking, names).await {
        Ok(stand) => stand,
        Err(trouble) => return vec![failed("topology", &trouble, "try again; a worker would too")],
    };
    let mut findings = vec![topology(&stand)];
    findings.push(match rights(looking, publishing, names, &stand).await {
        Ok(finding) => finding,
        Err(trouble) => failed("rights", &trouble, "try again"),
    });
    findings.extend(limit(&stand, names));
    findings.push(match inspect::is_led(looking, names).await {
        Ok(true) => Finding::ok("leader", "a worker leads: others with this configuration would stand by"),
        Ok(false) => Finding::ok("leader", "nobody leads: no worker is at work, and the next one that starts will be"),
        Err(trouble) => failed("leader", &trouble, "try again"),
    });
    findings
}

async fn stand(looking: &Connection, names: &Names) -> Result<Stand, BrokerError> {
    let mut stand = Stand::default();
    for thing in topology::things(names, &Delays::default()) {
        let name = match &thing {
            Thing::Exchange { name, .. } | Thing::Queue { name, .. } => name.clone(),
            // They cannot be seen without changing something.
            Thing::Binding { .. } => continue,
        };
        match inspect::standing(looking, &thing).await? {
            Standing::Missing => stand.missing.push(name),
            Standing::AsDeclared => stand.there.push(thing),
            Standing::Differs(said) => stand.wrong.push(format!("{name}: {said}")),
            Standing::Forbidden => {
                stand.forbidden.push(format!("declare {name}"));
                stand.there.push(thing);
            }
        }
    }
    Ok(stand)
}

fn topology(stand: &Stand) -> Finding {
    let Stand { there, missing, wrong, .. } = stand;
    let of = format!("{} of {} exchanges and queues", there.len(), there.len() + missing.len() + wrong.len());
    if !wrong.is_empty() {
        let cure = "nothing was deleted: empty and delete what differs, or set amqp.prefix to work beside it";
        return Finding::fail("topology", format!("not as declared: {}", wrong.join("; ")), cure);
    }
    if !missing.is_empty() {
        let says = format!("{of} are there; not yet there: {}", missing.join(", "));
        return Finding::warn(
            "topology",
            says,
            "nothing to do: a worker declares them when it starts, with the right to configure them",
        );
    }
    Finding::ok("topology", format!("all {} exchanges and queues are there as declared", there.len()))
}

/// The rights to what is there; those to the rest show themselves when it is declared.
async fn rights(
    looking: &Connection,
    publishing: Option<&Connection>,
    names: &Names,
    stand: &Stand,
) -> Result<Finding, BrokerError> {
    let mut lacking = stand.forbidden.clone();
    for thing in &stand.there {
        match (thing, publishing) {
            (Thing::Exchange { name, .. }, Some(publishing)) => {
                if !inspect::may_write(publishing, name).await? {
                    lacking.push(format!("write {name}"));
                }
            }
            (Thing::Queue { name, .. }, _) => {
                let read = Lane::ALL.map(|lane| names.lane(lane)).contains(name)
                    || [names.ledger(), names.leader()].contains(name);
                if read && !inspect::may_read(looking, name).await? {
                    lacking.push(format!("read {name}"));
                }
            }
            (Thing::Exchange { .. }, None) | (Thing::Binding { .. }, _) => {}
        }
    }
    if let Some(publishing) = publishing
        && !inspect::may_write(publishing, "").await?
    {
        lacking.push("write amq.default".to_owned());
    }
    if !lacking.is_empty() {
        let cure =
            "rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ, with patterns that match these names";
        return Ok(Finding::fail("rights", format!("this user may not {}", lacking.join(", ")), cure));
    }
    let seen = if publishing.is_some() { "configure, write and read" } else { "configure and read" };
    Ok(match (stand.there.len(), stand.missing.len()) {
        (0, _) => Finding::ok("rights", "not known before anything is there"),
        (_, 0) => Finding::ok("rights", format!("{seen}, where a worker needs it")),
        _ => Finding::ok("rights", format!("{seen}, as far as things are there")),
    })
}

/// The delivery limit of the lanes, where they are as declared.
fn limit(stand: &Stand, names: &Names) -> Option<Finding> {
    let lane = names.lane(Lane::Interactive);
    let declared = |thing: &Thing| matches!(thing, Thing::Queue { name, .. } if *name == lane);
    let forbidden = stand.forbidden.iter().any(|right| right.ends_with(&lane));
    (stand.there.iter().any(declared) && !forbidden).then(|| {
        let says = format!(
            "{DELIVERY_LIMIT}, by the lanes' own argument; a policy that lowers it cannot be seen from here (rabbitmqctl list_policies)"
        );
        Finding::ok("delivery limit", says)
    })
}
