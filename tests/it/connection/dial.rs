//! Where the broker is: what its URL says, and nowhere else.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::operator::process::{Run, ready, says};
use crate::world::Plan;

/// IPv6's own loopback, of which nothing but a URL that is read well knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_an_ipv6_address_is_reached_there() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("this machine has no IPv6: nothing is shown here");
        return;
    };
    let world = Plan::new().prepare().await;
    let broker = reqwest::Url::parse(&world.amqp_url).unwrap();
    let place = (broker.host_str().unwrap().to_owned(), broker.port().unwrap());
    let own = format!("[amqp]\nurl = \"amqp://guest:guest@{}/%2f\"\n", listener.local_addr().unwrap());
    let handing_on = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let place = place.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(place).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let mut worker = Run::of(&world, &["--log", "json", "worker"]).config(&own).start();
    ready(&worker.http().await).await;
    let (code, out, err) = Run::of(&world, &["check"]).config(&own).end().await;
    assert_eq!(code, 0, "{out}{err}");
    says(&out, &["ok    broker", "ok    login"]);
    assert_eq!(worker.terminated().await.0, 0);
    handing_on.abort();
}
