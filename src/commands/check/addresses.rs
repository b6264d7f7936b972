//! Each address of the broker by itself: whether it answers, and which version.

use super::finding::{Finding, Level};
use crate::amqp::error::BrokerError;
use crate::amqp::greeting::{Greeting, Heard};

/// The oldest version that dead-letters at least once, and the newest that this was tried on.
const VERSIONS: [(u32, u32); 2] = [(3, 10), (4, 3)];

/// Who the broker is, and where there is more than one address, which of them are dead.
///
/// # Errors
/// Where none answers: that alone.
pub(super) fn findings(mut heard: Vec<Heard>) -> Result<Vec<Finding>, Finding> {
    let answers: Vec<usize> = heard.iter().filter(|heard| heard.said.is_ok()).map(|heard| heard.nth).collect();
    // `localhost` means [::1] as well, on which few listen.
    heard.retain(|heard| heard.said.is_ok() || !(heard.is_loopback && answers.contains(&heard.nth)));
    let all = heard.len();
    let mut greetings: Vec<(String, Greeting)> = Vec::new();
    let mut troubles: Vec<(usize, BrokerError)> = Vec::new();
    for Heard { place, nth, said, .. } in heard {
        match said {
            Ok(greeting) => greetings.push((place, greeting)),
            Err(trouble) => troubles.push((nth, trouble)),
        }
    }
    if greetings.is_empty() {
        return Err(nobody(&troubles));
    }
    let mut findings = vec![versions(&greetings)];
    if all > 1 {
        findings.push(addresses(&greetings, &troubles));
    }
    Ok(findings)
}

fn said(troubles: &[(usize, BrokerError)]) -> String {
    troubles.iter().map(|(_, trouble)| trouble.to_string()).collect::<Vec<_>>().join("; ")
}

fn nobody(troubles: &[(usize, BrokerError)]) -> Finding {
    let stays = |nth: usize| troubles.iter().any(|(other, trouble)| *other == nth && trouble.stays());
    let cure = if troubles.iter().all(|(nth, _)| stays(*nth)) {
        "fix that; certificates and keys are in amqp.ca_file, client_cert_file and client_key_file"
    } else {
        "start RabbitMQ, or correct amqp.url: host, port, and amqps:// where it wants TLS"
    };
    Finding::fail("broker", said(troubles), cure)
}

fn addresses(greetings: &[(String, Greeting)], troubles: &[(usize, BrokerError)]) -> Finding {
    let places = greetings.iter().map(|(place, _)| place.as_str()).collect::<Vec<_>>().join(", ");
    if troubles.is_empty() {
        return Finding::ok("addresses", format!("all {} answer: {places}", greetings.len()));
    }
    let says =
        format!("{} of {} answer ({places}); {}", greetings.len(), greetings.len() + troubles.len(), said(troubles));
    Finding::warn(
        "addresses",
        says,
        "start that node, or correct amqp.url or amqp.hosts; meanwhile a worker goes on by the others",
    )
}

/// The worst first, where the nodes have more than one.
fn versions(greetings: &[(String, Greeting)]) -> Finding {
    let mut versions: Vec<(&Greeting, Vec<&str>)> = Vec::new();
    for (place, greeting) in greetings {
        match versions.iter_mut().find(|(other, _)| *other == greeting) {
            Some((_, places)) => places.push(place),
            None => versions.push((greeting, vec![place])),
        }
    }
    let judged = versions.iter().map(|(greeting, places)| (version(greeting), places.join(", ")));
    let mut judged: Vec<(Finding, String)> = judged.collect();
    judged.sort_by_key(|(finding, _)| match finding.level {
        Level::Fail => 0,
        Level::Warn => 1,
        Level::Ok => 2,
    });
    let says = match judged.as_slice() {
        [(finding, _)] => finding.says.clone(),
        several => {
            let each = several.iter().map(|(finding, places)| format!("{} at {places}", finding.says));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    let worst = judged.into_iter().next().map(|(finding, _)| finding);
    Finding { says, ..worst.unwrap_or_else(|| Finding::ok("broker", "")) }
}

/// The oldest version of RabbitMQ among those that answered.
pub(super) fn oldest(heard: &[Heard]) -> Option<(u32, u32)> {
    let greetings = heard.iter().filter_map(|heard| heard.said.as_ref().ok());
    greetings.filter(|greeting| greeting.product == "RabbitMQ").filter_map(numbers).min()
}

fn numbers(greeting: &Greeting) -> Option<(u32, u32)> {
    let mut numbers = greeting.version.split('.').map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next())
}

fn version(greeting: &Greeting) -> Finding {
    let says = format!("{} {}", greeting.product, greeting.version);
    let [oldest, newest] = VERSIONS;
    match (numbers(greeting), greeting.product.as_str()) {
        (Some(version), "RabbitMQ") if version < oldest => {
            Finding::fail("broker", says, "take RabbitMQ 3.10 or newer: older ones lose what they dead-letter")
        }
        (Some(version), "RabbitMQ") if version <= newest => Finding::ok("broker", says),
        (Some(_) | None, _) => Finding::warn(
            "broker",
            says,
            "resetd is tested on RabbitMQ 3.10 to 4.3; try it with this one before you rely on it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(product: &str, version: &str) -> Greeting {
        Greeting { product: product.into(), version: version.into() }
    }

    fn heard(nth: usize, place: &str, said: Result<&str, BrokerError>) -> Heard {
        let is_loopback = place.contains("127.0.0.1") || place.contains("::1");
        Heard { place: place.into(), is_loopback, nth, said: said.map(|version| greeting("RabbitMQ", version)) }
    }

    fn down(place: &str) -> Result<&'static str, BrokerError> {
        Err(BrokerError::Retry(format!("reaching the broker at {place}: Connection refused (os error 111)")))
    }

    fn lines(heard: Vec<Heard>) -> String {
        let findings = findings(heard).unwrap_or_else(|finding| vec![finding]);
        super::super::finding::text(&findings, false)
    }

    #[test]
    fn a_version_is_judged_by_what_it_can_do() {
        for (product, text, expected) in [
            ("RabbitMQ", "3.9.29", Level::Fail),
            ("RabbitMQ", "3.10.8", Level::Ok),
            ("RabbitMQ", "3.13.7", Level::Ok),
            ("RabbitMQ", "4.3.6", Level::Ok),
            ("RabbitMQ", "4.4.0", Level::Warn),
            ("RabbitMQ", "4.0.0-rc.1", Level::Ok),
            ("RabbitMQ", "new", Level::Warn),
            ("LavinMQ", "3.10.8", Level::Warn),
        ] {
            assert_eq!(version(&greeting(product, text)).level, expected, "{product} {text}");
        }
    }

    #[test]
    fn one_address_is_not_spoken_of_and_of_several_the_dead_are_named() {
        insta::assert_snapshot!(lines(vec![heard(0, "rabbit-1:5672", Ok("4.3.6"))]), @"
        ok    broker  RabbitMQ 4.3.6
        ");
        let two = vec![heard(0, "10.0.0.1:5672", Ok("4.3.6")), heard(1, "10.0.0.2:5672", Ok("4.3.6"))];
        insta::assert_snapshot!(lines(two), @"
        ok    broker     RabbitMQ 4.3.6
        ok    addresses  all 2 answer: 10.0.0.1:5672, 10.0.0.2:5672
        ");
        let three = vec![
            heard(0, "10.0.0.1:5672", Ok("4.3.6")),
            heard(1, "10.0.0.2:5672", down("10.0.0.2:5672")),
            heard(2, "10.0.0.3:5672", Ok("4.2.1")),
        ];
        insta::assert_snapshot!(lines(three), @"
        ok    broker     RabbitMQ 4.3.6 at 10.0.0.1:5672; RabbitMQ 4.2.1 at 10.0.0.3:5672
        warn  addresses  2 of 3 answer (10.0.0.1:5672, 10.0.0.3:5672); reaching the broker at 10.0.0.2:5672: Connection refused (os error 111)
                         -> start that node, or correct amqp.url or amqp.hosts; meanwhile a worker goes on by the others
        ");
        let none = vec![
            heard(0, "10.0.0.1:5672", down("10.0.0.1:5672")),
            heard(
                1,
                "10.0.0.2:5672",
                Err(BrokerError::NeedsOperator("reaching the broker at 10.0.0.2:5672: TLS".into())),
            ),
        ];
        insta::assert_snapshot!(lines(none), @"
        FAIL  broker  reaching the broker at 10.0.0.1:5672: Connection refused (os error 111); reaching the broker at 10.0.0.2:5672: TLS
                      -> start RabbitMQ, or correct amqp.url: host, port, and amqps:// where it wants TLS
        ");
        let localhost =
            vec![heard(0, "localhost:5672 (::1)", down("::1")), heard(0, "localhost:5672 (127.0.0.1)", Ok("3.10.8"))];
        insta::assert_snapshot!(lines(localhost), @"
        ok    broker  RabbitMQ 3.10.8
        ");
        let old = vec![heard(0, "10.0.0.1:5672", Ok("4.3.6")), heard(1, "10.0.0.2:5672", Ok("3.9.0"))];
        insta::assert_snapshot!(lines(old), @"
        FAIL  broker     RabbitMQ 3.9.0 at 10.0.0.2:5672; RabbitMQ 4.3.6 at 10.0.0.1:5672
                         -> take RabbitMQ 3.10 or newer: older ones lose what they dead-letter
        ok    addresses  all 2 answer: 10.0.0.1:5672, 10.0.0.2:5672
        ");
    }
}
