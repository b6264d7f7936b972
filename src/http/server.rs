//! Accepts connections and serves them so that no client can hold the process up: a bound of connections, and a limit for every
//! step that a client may delay.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_socket_send_buffer_size;
#[cfg(target_os = "linux")]
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

use super::headers;
use super::peer::Peer;

/// Connections at once. One more takes the place of the one that is longest without a complete request.
const MAX_CONNECTIONS: usize = 256;
/// Those that are being closed count too until they are: so many more at most, so that accepting need not wait for each.
const CLOSING: usize = 64;
/// From the beginning of a connection, or the response before, until a request's head is complete. So an idle connection is closed
/// after it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From there until the response's head is ready: a request's body may come slowly.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing of what is sent for so long is given up. What its system takes for it counts as taken.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What our system holds at most of what a client does not take, in bytes; Linux doubles it. Left to itself, it takes megabytes
/// before a write waits.
const SEND_BUFFER: usize = 32 * 1024;
/// A stream of events whose client took something so recently keeps its place. Something is sent every 10 s.
const READS: Duration = Duration::from_secs(20);
/// Of a request's head, and of what is waiting to be written, in bytes.
const BUFFER: usize = 16 * 1024;
/// After the system refused a connection: for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until this is dropped, which closes what is open.
pub(super) async fn serve(listener: TcpListener, routes: Router) {
    let (open, ended) = (Arc::new(Open::default()), CancellationToken::new());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS + CLOSING));
    let _all = ended.clone().drop_guard();
    let mut was_refused = false;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok((socket, from)) => (socket, Peer(from.ip())),
            Err(error) => {
                if !was_refused {
                    tracing::warn!(%error, "a connection to http.listen could not be accepted; further ones are not logged");
                }
                was_refused = true;
                open.close_the_oldest();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        was_refused = false;
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let entry = open.enter(ended.child_token());
        let routes = routes.clone();
        tokio::spawn(async move {
            let connection = connection(socket, peer, routes, Arc::clone(&entry.connection));
            entry.connection.closed.run_until_cancelled(connection).await;
            drop((entry, place));
        });
    }
}

/// Has the system give up a client that takes nothing, too: events are small, and all that it does not take may lie with the system
/// for hours before a write of ours waits. Where that cannot be set, our own limit counts alone.
fn bound(socket: &TcpStream) {
    let _ = set_socket_send_buffer_size(socket, SEND_BUFFER);
    // What was sent and is not acknowledged, or cannot be sent since the client has no room (tcp(7)).
    #[cfg(target_os = "linux")]
    let _ = set_tcp_user_timeout(socket, u32::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(u32::MAX));
}

/// One connection, to its end. How it ends is the client's affair.
async fn connection(socket: TcpStream, peer: Peer, routes: Router, state: Arc<Connection>) {
    bound(&socket);
    let mut socket = TimeoutWriter::new(Noted { socket, state: Arc::clone(&state), waits: false });
    socket.set_timeout(Some(WRITE_TIMEOUT));
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        state.progressed();
        request.extensions_mut().insert(peer);
        let (answer, state) = (routes.call(request), Arc::clone(&state));
        async move {
            let mut answer = match tokio::time::timeout(RESPONSE_TIMEOUT, answer).await {
                Ok(Ok(answer)) => answer,
                Err(_) => timed_out(),
            };
            headers::seal(answer.headers_mut());
            if answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"text/event-stream") {
                state.streams.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
    let _ = http.serve_connection(TokioIo::new(Box::pin(socket)), service).await;
}

fn timed_out() -> Response<Body> {
    let mut answer = Response::new(Body::from("the request did not come in time\n"));
    *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
    answer
}

/// What decides which connection has to go.
struct Connection {
    began: Instant,
    /// When its last request was complete, or, of a stream of events, when its client last took something: in milliseconds after
    /// `began`.
    progress: AtomicU64,
    /// Whether it is a stream of events.
    streams: AtomicBool,
    closed: CancellationToken,
}

impl Connection {
    fn progressed(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(now, Ordering::Relaxed);
    }

    fn last_progress(&self) -> Instant {
        self.began + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }

    fn may_go(&self, now: Instant) -> bool {
        !self.streams.load(Ordering::Relaxed) || now.duration_since(self.last_progress()) > READS
    }
}

/// All that are open and not being closed, each by its number.
#[derive(Default)]
struct Open(Mutex<(u64, HashMap<u64, Arc<Connection>>)>);

/// One of them, until this is dropped.
struct Entry {
    open: Arc<Open>,
    number: u64,
    connection: Arc<Connection>,
}

impl Open {
    /// One more; where all places are taken, the oldest goes.
    fn enter(self: &Arc<Self>, closed: CancellationToken) -> Entry {
        if self.lock().1.len() >= MAX_CONNECTIONS {
            self.close_the_oldest();
        }
        let (began, progress, streams) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        let connection = Arc::new(Connection { began, progress, streams, closed });
        let mut open = self.lock();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, Arc::clone(&connection));
        drop(open);
        Entry { open: Arc::clone(self), number, connection }
    }

    /// Closes the connection that is longest without a complete request. Streams of events that are read are fewer than there are
    /// places ([`super::events`]).
    fn close_the_oldest(&self) {
        let (mut open, now) = (self.lock(), Instant::now());
        let may_go = open.1.iter().filter(|(_, connection)| connection.may_go(now));
        let oldest = may_go.min_by_key(|(_, connection)| connection.last_progress()).map(|(number, _)| *number);
        if let Some(connection) = oldest.and_then(|number| open.1.remove(&number)) {
            connection.closed.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Connection>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.lock().1.remove(&self.number);
    }
}

/// A socket that notes when the client of a stream of events takes something.
struct Noted {
    socket: TcpStream,
    state: Arc<Connection>,
    /// Whether the last write waits for the client.
    waits: bool,
}

impl Noted {
    fn note<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.waits = written.is_pending();
        if written.is_ready() && self.state.streams.load(Ordering::Relaxed) {
            self.state.progressed();
        }
        written
    }
}

/// The system keeps no connection whose client does not take what is left for it.
impl Drop for Noted {
    fn drop(&mut self) {
        if self.waits {
            let _ = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
