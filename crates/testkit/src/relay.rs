//! A relay in front of the broker, for a network that a test can cut, stall and heal.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// So many reads at most are on their way in one direction.
const ON_THEIR_WAY: usize = 4_096;

/// Takes connections on a loopback port of its own and hands each on. All of them end when this is dropped.
pub struct Relay {
    url: String,
    network: watch::Sender<Network>,
    open: Arc<AtomicUsize>,
    tapes: Option<Tapes>,
    serving: JoinHandle<()>,
}

/// What went over a connection in one direction, for each of both.
type Tapes = Arc<Mutex<Vec<Tape>>>;
type Tape = Arc<Mutex<Vec<u8>>>;

/// What the network is like at the moment.
#[derive(Clone, Copy, Default)]
struct Network {
    /// How often all connections were cut. One that began before the last time is over.
    cuts: u64,
    /// How often the servers' ends of all connections were cut.
    cuts_behind: u64,
    refuses: bool,
    /// What the client sends is not handed on, and no connection is made.
    holds_there: bool,
    /// What the server sends is not handed on.
    holds_back: bool,
    /// So long is what the server sends on its way.
    lag_back: Duration,
}

impl Relay {
    /// In front of the server that this URL names with its port, such as `amqp://guest:guest@127.0.0.1:5672/%2f`.
    pub fn to(url: &str) -> Self {
        Self::with(url, None)
    }

    /// The same, and it keeps every byte.
    pub fn listening_to(url: &str) -> Self {
        Self::with(url, Some(Tapes::default()))
    }

    /// Every byte so far, of each connection and direction by itself.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let tapes = self.tapes.as_ref().expect("it listens").lock().unwrap();
        tapes.iter().map(|tape| tape.lock().unwrap().clone()).collect()
    }

    fn with(url: &str, tapes: Option<Tapes>) -> Self {
        let mut parsed = reqwest::Url::parse(url).unwrap();
        let server = (parsed.host_str().unwrap().to_owned(), parsed.port().expect("the URL has a port"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let own: SocketAddr = listener.local_addr().unwrap();
        parsed.set_host(Some("127.0.0.1")).unwrap();
        parsed.set_port(Some(own.port())).unwrap();
        let (network, now) = watch::channel(Network::default());
        let open = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(serve(listener, server, now, Arc::clone(&open), tapes.clone()));
        Self { url: parsed.to_string(), network, open, tapes, serving }
    }

    /// The URL that leads through it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many connections are open; those that hear nothing count too.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Resets every connection there is. New ones pass.
    pub fn cut(&self) {
        self.network.send_modify(|network| network.cuts += 1);
    }

    /// Resets the server's end of every connection there is, of which its client hears nothing. New ones pass.
    pub fn cut_behind(&self) {
        self.network.send_modify(|network| network.cuts_behind += 1);
    }

    /// Resets every new connection. Those there are stay.
    pub fn refuse(&self) {
        self.network.send_modify(|network| network.refuses = true);
    }

    /// Nothing goes either way. Connections stay open, and new ones are taken and hear nothing.
    pub fn stall(&self) {
        self.network.send_modify(|network| (network.holds_there, network.holds_back) = (true, true));
    }

    /// What clients send is held; what the server sends still comes.
    pub fn hold_there(&self) {
        self.network.send_modify(|network| network.holds_there = true);
    }

    /// What the server sends is held; what clients send still arrives.
    pub fn hold_back(&self) {
        self.network.send_modify(|network| network.holds_back = true);
    }

    /// What the server sends comes so much later, as over a long way.
    pub fn lag_back(&self, lag: Duration) {
        self.network.send_modify(|network| network.lag_back = lag);
    }

    /// All is well again, and what was held goes on.
    pub fn heal(&self) {
        self.network.send_modify(|network| {
            let Network { cuts, cuts_behind, .. } = *network;
            *network = Network { cuts, cuts_behind, ..Network::default() };
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its connections are a set that this task owns.
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    server: (String, u16),
    network: watch::Receiver<Network>,
    open: Arc<AtomicUsize>,
    tapes: Option<Tapes>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            taken = listener.accept() => {
                let Ok((client, _)) = taken else { continue };
                let _ = client.set_zero_linger();
                let now = *network.borrow();
                if !now.refuses {
                    let counted = Counted::one_more(&open);
                    let tapes = tapes.as_ref().map(|tapes| [new_tape(tapes), new_tape(tapes)]);
                    connections.spawn(connection(client, server.clone(), network.clone(), now, tapes, counted));
                }
            }
        }
    }
}

fn new_tape(tapes: &Tapes) -> Tape {
    let tape = Tape::default();
    tapes.lock().unwrap().push(Arc::clone(&tape));
    tape
}

/// One connection in the count, as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// From its beginning to its end, by itself or by a cut. Both sockets are dropped without lingering, which resets what is not
/// closed by then. (They are split by reference: a half that owns its socket would end it in good order when it is dropped.)
async fn connection(
    mut client: TcpStream,
    server: (String, u16),
    mut network: watch::Receiver<Network>,
    began: Network,
    tapes: Option<[Tape; 2]>,
    _counted: Counted,
) {
    let (there, back, mut ends) = (network.clone(), network.clone(), network.clone());
    let carried = async {
        let mut there = there;
        while_held(&mut there, |network| network.holds_there).await?;
        let mut server = TcpStream::connect(server).await?;
        server.set_zero_linger()?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            carry(from_client, to_server, there, THERE, tapes.as_ref().map(|tapes| &tapes[0])),
            carry(from_server, to_client, back, BACK, tapes.as_ref().map(|tapes| &tapes[1])),
        )
    };
    tokio::select! {
        _ = carried => return,
        _ = network.wait_for(|network| network.cuts > began.cuts) => return,
        _ = ends.wait_for(|network| network.cuts_behind > began.cuts_behind) => {}
    }
    tokio::select! {
        () = unheard(&mut client) => {}
        _ = network.wait_for(|network| network.cuts > began.cuts) => {}
    }
}

/// Takes what a client says, and does nothing with it.
async fn unheard(client: &mut TcpStream) {
    let mut some = vec![0; 65536];
    while let Ok(1..) = client.read(&mut some).await {}
}

/// What the network is like in one direction.
struct Direction {
    held: fn(&Network) -> bool,
    lag: fn(&Network) -> Duration,
}

const THERE: Direction = Direction { held: |network| network.holds_there, lag: |_| Duration::ZERO };
const BACK: Direction = Direction { held: |network| network.holds_back, lag: |network| network.lag_back };

/// One direction, up to its end, which is handed on too.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut network: watch::Receiver<Network>,
    direction: Direction,
    tape: Option<&Tape>,
) -> io::Result<()> {
    let Direction { held, lag } = direction;
    let mut arriving = network.clone();
    let (leaves, mut arrives) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THEIR_WAY);
    let reading = async move {
        let mut some = vec![0; 65536];
        loop {
            while_held(&mut network, held).await?;
            let read = tokio::select! {
                read = from.read(&mut some) => read?,
                _ = network.wait_for(held) => continue,
            };
            if read == 0 {
                return Ok(());
            }
            if let Some(tape) = tape {
                tape.lock().unwrap().extend_from_slice(&some[..read]);
            }
            let due = Instant::now() + lag(&network.borrow());
            leaves.send((due, some[..read].to_vec())).await.map_err(io::Error::other)?;
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = arrives.recv().await {
            sleep_until(due).await;
            // It may have begun to be held while this was on its way.
            while_held(&mut arriving, held).await?;
            to.write_all(&bytes).await?;
        }
        while_held(&mut arriving, held).await?;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

async fn while_held(network: &mut watch::Receiver<Network>, held: fn(&Network) -> bool) -> io::Result<()> {
    network.wait_for(|network| !held(network)).await.map_err(io::Error::other)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::Relay;
    use crate::eventually;

    /// A server that a test speaks for, and a relay in front of it.
    async fn server() -> (TcpListener, Relay) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(&format!("amqp://a:b@{}/%2f", listener.local_addr().unwrap()));
        (listener, relay)
    }

    async fn client(relay: &Relay) -> TcpStream {
        let url = reqwest::Url::parse(relay.url()).unwrap();
        TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap()
    }

    /// A connection through the relay, and the server's end of it.
    async fn pair(listener: &TcpListener, relay: &Relay) -> (TcpStream, TcpStream) {
        let mut client = client(relay).await;
        let mut server = listener.accept().await.unwrap().0;
        // Only then is it carried: the kernel accepts before the relay knows.
        says(&mut client, &mut server, "hello").await;
        (client, server)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
        from.write_all(text.as_bytes()).await.unwrap();
        hears(to, text).await;
    }

    async fn hears(stream: &mut TcpStream, text: &str) {
        let mut heard = vec![0; text.len()];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut heard)).await;
        read.expect("it comes").unwrap();
        assert_eq!(heard, text.as_bytes());
    }

    async fn hears_nothing(stream: &mut TcpStream) {
        let mut one = [0];
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut one)).await;
        assert!(read.is_err(), "{read:?}");
    }

    async fn is_reset(stream: &mut TcpStream) {
        let mut one = [0];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut one)).await.expect("it ends");
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    async fn has(relay: &Relay, connections: usize) {
        eventually("so many connections", async || (relay.connections() == connections).then_some(())).await;
    }

    #[tokio::test]
    async fn a_relay_carries_both_ways_and_hands_an_end_on() {
        let (listener, relay) = server().await;
        assert!(relay.url().starts_with("amqp://a:b@127.0.0.1:") && relay.url().ends_with("/%2f"), "{}", relay.url());
        let (mut client, mut server) = pair(&listener, &relay).await;
        says(&mut client, &mut server, "ping").await;
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        says(&mut server, &mut client, "pong, though you have ended").await;
        drop(server);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        has(&relay, 0).await;
    }

    #[tokio::test]
    async fn a_cut_resets_all_connections_and_a_new_one_passes() {
        let (listener, relay) = server().await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        let (mut other, _server) = pair(&listener, &relay).await;
        assert_eq!(relay.connections(), 2);
        relay.cut();
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        is_reset(&mut other).await;
        has(&relay, 0).await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        says(&mut client, &mut server, "again").await;
    }

    #[tokio::test]
    async fn a_cut_behind_resets_the_servers_end_and_the_client_hears_nothing() {
        let (listener, relay) = server().await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        relay.cut_behind();
        is_reset(&mut server).await;
        client.write_all(b"is anybody there?").await.unwrap();
        hears_nothing(&mut client).await;
        let (mut other, mut server) = pair(&listener, &relay).await;
        says(&mut other, &mut server, "again").await;
        relay.cut();
        is_reset(&mut client).await;
    }

    #[tokio::test]
    async fn refusing_resets_new_connections_and_leaves_the_old() {
        let (listener, relay) = server().await;
        let (mut old, mut server) = pair(&listener, &relay).await;
        relay.refuse();
        is_reset(&mut client(&relay).await).await;
        says(&mut old, &mut server, "still here").await;
        relay.heal();
        let (mut client, mut server) = pair(&listener, &relay).await;
        says(&mut client, &mut server, "well again").await;
    }

    #[tokio::test]
    async fn a_stalled_relay_holds_both_ways_takes_new_connections_in_silence_and_goes_on() {
        let (listener, relay) = server().await;
        let (mut old, mut server) = pair(&listener, &relay).await;
        relay.stall();
        old.write_all(b"there").await.unwrap();
        server.write_all(b"back").await.unwrap();
        let mut silent = client(&relay).await;
        hears_nothing(&mut old).await;
        hears_nothing(&mut server).await;
        hears_nothing(&mut silent).await;
        relay.heal();
        hears(&mut server, "there").await;
        hears(&mut old, "back").await;
        let mut new = listener.accept().await.unwrap().0;
        says(&mut new, &mut silent, "welcome").await;
    }

    #[tokio::test]
    async fn a_stalled_connection_can_be_cut() {
        let (listener, relay) = server().await;
        let (mut old, mut server) = pair(&listener, &relay).await;
        relay.stall();
        let mut silent = client(&relay).await;
        has(&relay, 2).await;
        relay.cut();
        for stream in [&mut old, &mut server, &mut silent] {
            is_reset(stream).await;
        }
    }

    #[tokio::test]
    async fn a_half_open_connection_carries_one_way_only() {
        let (listener, relay) = server().await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        relay.hold_there();
        client.write_all(b"lost for now").await.unwrap();
        says(&mut server, &mut client, "do you hear me?").await;
        hears_nothing(&mut server).await;
        relay.heal();
        hears(&mut server, "lost for now").await;
        relay.hold_back();
        server.write_all(b"held").await.unwrap();
        says(&mut client, &mut server, "I am here").await;
        hears_nothing(&mut client).await;
        relay.heal();
        hears(&mut client, "held").await;
    }

    #[tokio::test]
    async fn a_lag_delays_what_the_server_says_and_holds_up_nothing_behind_it() {
        let (listener, relay) = server().await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        let lag = Duration::from_millis(300);
        relay.lag_back(lag);
        let began = tokio::time::Instant::now();
        for word in ["one", "two", "three", "four"] {
            server.write_all(word.as_bytes()).await.unwrap();
            says(&mut client, &mut server, word).await;
        }
        let sent = began.elapsed();
        hears(&mut client, "onetwothreefour").await;
        let all = began.elapsed();
        assert!(lag <= all && all < sent + 3 * lag, "{all:?}, all sent within {sent:?}");
    }

    #[tokio::test]
    async fn a_relay_that_is_dropped_ends_all() {
        let (listener, relay) = server().await;
        let (mut client, mut server) = pair(&listener, &relay).await;
        let open = std::sync::Arc::clone(&relay.open);
        drop(relay);
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        eventually("none is counted", async || (open.load(std::sync::atomic::Ordering::SeqCst) == 0).then_some(()))
            .await;
    }

    #[tokio::test]
    async fn a_server_that_is_gone_resets_the_client() {
        let (listener, relay) = server().await;
        drop(listener);
        is_reset(&mut client(&relay).await).await;
    }
}
