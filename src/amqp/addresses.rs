//! The addresses of a cluster: which sockets its names mean, in which order they are tried, and the first that answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::uri::AMQPUri;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep_until};

use super::error::ANSWER;
use crate::config::amqp::{Amqp, place};

/// How long an address that says nothing keeps the next one waiting. It is tried on meanwhile: a broker may be slow.
const LONGEST: Duration = Duration::from_secs(1);
/// How long all names may take to be looked up: a first name server that is down costs 5 s by default (resolv.conf(5)).
const LOOK_UP: Duration = Duration::from_secs(7);
/// How long those that are known wait for the names of others.
const OTHERS: Duration = Duration::from_secs(1);

/// One socket of one of the configured addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Which of the configured ones.
    pub(super) nth: usize,
    /// The socket.
    pub(super) socket: SocketAddr,
    /// How it is called.
    pub(super) label: String,
}

/// What the configured addresses mean.
#[derive(Debug)]
pub(super) struct Found {
    /// Each of them, with the user and the vhost.
    pub(super) uris: Vec<AMQPUri>,
    /// All of their sockets.
    pub(super) addresses: Vec<Address>,
    /// Those without any: which, and why.
    pub(super) unknown: Vec<(usize, String)>,
}

/// Looks all names up at the same time.
pub(super) async fn find(amqp: &Amqp) -> Found {
    let uris = amqp.uris();
    let look_up = async |nth: usize| {
        let authority = &uris[nth].authority;
        (nth, tokio::net::lookup_host((authority.host.as_str(), authority.port)).await.map(Vec::from_iter))
    };
    let mut asking: FuturesUnordered<_> = (0..uris.len()).map(look_up).collect();
    let (mut addresses, mut unknown) = (Vec::new(), Vec::new());
    let mut until = Instant::now() + LOOK_UP;
    let mut pending: Vec<usize> = (0..uris.len()).collect();
    while let Ok(Some((nth, sockets))) = tokio::time::timeout_at(until, asking.next()).await {
        pending.retain(|other| *other != nth);
        match sockets {
            Ok(sockets) if !sockets.is_empty() => {
                addresses.extend(named(nth, &uris[nth], sockets));
                until = until.min(Instant::now() + OTHERS);
            }
            Ok(_) => unknown.push((nth, "its name has no address".to_owned())),
            Err(error) => unknown.push((nth, error.to_string())),
        }
    }
    drop(asking);
    unknown.extend(pending.into_iter().map(|nth| (nth, "its name could not be looked up in time".to_owned())));
    Found { uris, addresses, unknown }
}

/// The sockets of one name, each once, with what they are called: by the name, and by the socket too where there are several.
fn named(nth: usize, uri: &AMQPUri, mut sockets: Vec<SocketAddr>) -> Vec<Address> {
    sockets.sort_unstable();
    sockets.dedup();
    let place = place(uri);
    let is_name = uri.authority.host.parse::<IpAddr>().is_err();
    let label = |socket: &SocketAddr| if is_name { format!("{place} ({})", socket.ip()) } else { place.clone() };
    sockets.iter().map(|socket| Address { nth, socket: *socket, label: label(socket) }).collect()
}

/// In random order, and those that were used before at the end, the newest last. What is beside another connection begins where that
/// is: both are needed, so that on two nodes they would be lost twice as often, and in a partition one could be on the wrong side.
pub(super) fn ordered(mut addresses: Vec<Address>, used: &[SocketAddr], beside: Option<SocketAddr>) -> Vec<Address> {
    addresses.shuffle(&mut rand::rng());
    addresses.sort_by_key(|address| {
        let since = used.iter().position(|socket| *socket == address.socket);
        (Some(address.socket) != beside, since.map_or(0, |nth| nth + 1))
    });
    addresses
}

/// How long each of so many may keep the next one waiting, so that the last one has its share of the time too.
pub(super) fn patience(addresses: usize) -> Duration {
    let parts = u32::try_from(addresses).unwrap_or(u32::MAX).saturating_add(1);
    (ANSWER / parts).min(LONGEST)
}

/// Opens the first that answers. The next one is tried as soon as one has failed, and beside one that is silent for longer than
/// `patience`.
///
/// # Errors
/// What each of them said; `None` where it said nothing.
pub(super) async fn first<'a, T, E, F>(
    addresses: &'a [Address],
    patience: Duration,
    open: impl Fn(&'a Address) -> F,
) -> Result<(&'a Address, T), Vec<(&'a Address, Option<E>)>>
where
    F: Future<Output = Result<T, E>>,
{
    let tried = async |address: &'a Address| (address, open(address).await);
    let until = Instant::now() + ANSWER;
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut due = Instant::now();
    while !trying.is_empty() || waiting.len() > 0 {
        tokio::select! {
            biased;
            Some((address, opened)) = trying.next() => match opened {
                Ok(opened) => return Ok((address, opened)),
                Err(error) => {
                    failed.push((address, Some(error)));
                    due = Instant::now();
                }
            },
            () = sleep_until(due), if waiting.len() > 0 => {
                trying.extend(waiting.next().map(&tried));
                due = Instant::now() + patience;
            }
            () = sleep_until(until) => break,
        }
    }
    let silent = addresses.iter().filter(|address| failed.iter().all(|(other, _)| other != address));
    let silent: Vec<_> = silent.map(|address| (address, None)).collect();
    failed.extend(silent);
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        let socket = SocketAddr::from(([127, 0, 0, 1], port));
        Address { nth: usize::from(port), socket, label: socket.to_string() }
    }

    fn ports(addresses: &[Address]) -> Vec<u16> {
        addresses.iter().map(|address| address.socket.port()).collect()
    }

    /// What opening such an address comes to: even ones are silent, those below 10 refuse.
    async fn open(address: &Address) -> Result<u16, &'static str> {
        match address.socket.port() {
            port if port % 2 == 0 => std::future::pending().await,
            port if port < 10 => Err("refused"),
            port => Ok(port),
        }
    }

    #[test]
    fn who_was_used_comes_last_and_the_newest_at_the_very_end() {
        let all: Vec<Address> = (1..=5).map(address).collect();
        let used = [3, 9, 1].map(|port| address(port).socket);
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = ports(&ordered(all.clone(), &used, None));
            assert_eq!(order[3..], [3, 1], "{order:?}");
            firsts.insert(order[0]);
            let order = ports(&ordered(all.clone(), &used, Some(used[0])));
            assert_eq!((order[0], order[4]), (3, 1), "{order:?}");
        }
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [2, 4, 5], "each of those that were never used");
        assert_eq!(ordered(Vec::new(), &used, None), []);
    }

    /// A process that loses one after the other comes to each of them.
    #[test]
    fn the_next_one_is_taken_at_each_reconnect() {
        let all: Vec<Address> = (1..=3).map(address).collect();
        let used = crate::config::amqp::Used::default();
        let mut rounds = Vec::new();
        for _ in 0..9 {
            let next = ordered(all.clone(), &used.all(), None).remove(0);
            used.note(next.socket);
            rounds.push(next.socket.port());
        }
        for round in rounds.chunks(3) {
            assert_eq!(round, &rounds[..3], "round and round: {rounds:?}");
        }
        rounds.truncate(3);
        rounds.sort_unstable();
        assert_eq!(rounds, [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_its_share_of_the_time_and_a_refused_one_nothing() {
        for (tried, expected, took) in
            [(&[1, 3, 11][..], 11, 0), (&[2, 11], 11, 1_000), (&[2, 1, 4, 3, 11], 11, 2_000), (&[11, 2], 11, 0)]
        {
            let addresses: Vec<Address> = tried.iter().map(|port| address(*port)).collect();
            let began = Instant::now();
            let (found, opened) = first(&addresses, patience(addresses.len()), open).await.unwrap();
            assert_eq!((found.socket.port(), opened), (expected, expected), "{tried:?}");
            assert_eq!(began.elapsed().as_millis() / 10 * 10, took, "{tried:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_have_a_share_of_the_time_and_each_says_what_was_wrong() {
        for silent in [1, 2, 8, 40] {
            let mut addresses: Vec<Address> = (1..=silent).map(|nth| address(nth * 2)).collect();
            addresses.push(address(11));
            let began = Instant::now();
            let (_, opened) = first(&addresses, patience(addresses.len()), open).await.unwrap();
            assert_eq!(opened, 11, "after {silent} that are silent");
            assert!(began.elapsed() < ANSWER - patience(addresses.len()) / 2, "{:?}", began.elapsed());
        }
        let addresses = [1, 2, 3].map(address);
        let began = Instant::now();
        let mut failed = first(&addresses, patience(3), open).await.unwrap_err();
        failed.sort_by_key(|(address, _)| address.nth);
        let said: Vec<_> = failed.into_iter().map(|(address, error)| (address.nth, error)).collect();
        assert_eq!(said, [(1, Some("refused")), (2, None), (3, Some("refused"))]);
        assert_eq!(began.elapsed().as_secs(), ANSWER.as_secs());
        let refused = [1, 3].map(address);
        let began = Instant::now();
        assert_eq!(first(&refused, patience(2), open).await.unwrap_err().len(), 2);
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    }

    /// A broker that takes long for its answer is not given up for the next one.
    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_tried_on_beside_the_next_ones() {
        let addresses = [1, 2].map(address);
        let slowly = async |address: &Address| match address.nth {
            1 => {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Ok::<_, ()>("slow")
            }
            _ => std::future::pending().await,
        };
        let (found, opened) = first(&addresses, patience(2), slowly).await.unwrap();
        assert_eq!((found.nth, opened), (1, "slow"));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_one_that_has_no_address_is_no_obstacle() {
        let amqp = Amqp {
            url: "amqp://u:x@127.0.0.1:1".to_owned().into(),
            hosts: vec![
                crate::config::amqp::Host { host: "nowhere.invalid".into(), port: None },
                crate::config::amqp::Host { host: "::1".into(), port: Some(3) },
            ],
            used: crate::config::amqp::Used::default(),
            management_url: None,
            tls: crate::config::amqp::Tls::default(),
            prefix: String::new(),
            prefetch: 1,
        };
        let Found { uris, mut addresses, unknown } = find(&amqp).await;
        assert_eq!(uris.len(), 3);
        addresses.sort_by_key(|address| address.nth);
        let labels: Vec<&str> = addresses.iter().map(|address| address.label.as_str()).collect();
        assert_eq!(labels, ["127.0.0.1:1", "[::1]:3"]);
        assert_eq!(unknown.iter().map(|(nth, _)| *nth).collect::<Vec<_>>(), [1], "{unknown:?}");
    }
}
