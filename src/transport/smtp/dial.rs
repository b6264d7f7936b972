//! A connection to whichever of a server's addresses answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::dial::first_of;

/// The first of them that answers.
///
/// # Errors
/// What the last of them said.
pub(super) async fn dial(addresses: &[SocketAddr], share: Duration) -> io::Result<TcpStream> {
    first_of(addresses, share, TcpStream::connect).await
}

/// How much of the time each of so many addresses has.
pub(super) fn share(time: Duration, addresses: usize) -> Duration {
    time / u32::try_from(addresses).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const SHARE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn an_address_that_swallows_everything_keeps_the_next_one_from_nothing() {
        // Whoever listens has one connection that he does not take, and room for no other.
        let hole = TcpSocket::new_v4().unwrap();
        hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hole = hole.listen(0).unwrap();
        let black = hole.local_addr().unwrap();
        let _first = TcpStream::connect(black).await.unwrap();
        assert_eq!(dial(&[black], SHARE).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = server.local_addr().unwrap();
        let closed = "127.0.0.1:1".parse().unwrap();
        let stream = dial(&[closed, black, open], SHARE).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert_eq!(dial(&[], SHARE).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn all_of_them_together_have_the_time_for_one_step() {
        let time = Duration::from_secs(10);
        assert_eq!([0, 1, 4].map(|addresses| share(time, addresses).as_millis()), [10_000, 10_000, 2_500]);
    }
}
