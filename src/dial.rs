//! Opening a socket to whichever of a name's addresses answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

/// Tries one address after the other, each for its share of the time: one that swallows everything leaves some to the others.
///
/// # Errors
/// What the last of them said.
pub(crate) async fn first_of<T, F>(
    addresses: &[SocketAddr],
    share: Duration,
    open: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match timeout(share, open(*address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}
