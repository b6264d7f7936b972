//! What `resetd check` reads at the broker's management API. `management/*.json` are the answers of RabbitMQ 4.3.6, three nodes:
//! `resets.main` declared with `x-quorum-initial-group-size` 1 and `resets.outcomes` with `x-initial-cluster-size` 1, as if one node had
//! been alone; `resets.main.bulk` as it comes; `emails` under a policy; 12 s later `GET /api/nodes` (what has paths or is long was cut),
//! `GET /api/queues/%2F/NAME`, and the first again 8 s after a node was killed. So were the bodies of the refusals below.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;

use crate::broker::Broker;
use crate::operator::process::{Run, says};
use crate::world::{Plan, World, declare, eventually};

const NODES: &str = include_str!("management/nodes.json");

/// A management API with the recorded answers, and what it was asked: user and path.
async fn recorded(nodes: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let handle = async move |request: axum::extract::Request| {
        let given = request.headers().get("authorization").map_or("", |value| value.to_str().unwrap());
        let user = base64::engine::general_purpose::STANDARD.decode(given.trim_start_matches("Basic ")).unwrap();
        let user = String::from_utf8(user).unwrap();
        let path = request.uri().path().to_owned();
        kept.lock().unwrap().push(format!("{user} {path}"));
        answer(&user, &path, nodes)
    };
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(handle)).into_future());
    (base, asked)
}

fn answer(user: &str, path: &str, nodes: &'static str) -> Response {
    let json =
        |status: StatusCode, body: &'static str| (status, [("content-type", "application/json")], body).into_response();
    match user {
        "guest:guest" | "ops/1:s3cr3t@" => {}
        "mgmt:mgmt" => {
            return json(StatusCode::UNAUTHORIZED, r#"{"error":"not_authorised","reason":"Not monitor user"}"#);
        }
        _ => return json(StatusCode::UNAUTHORIZED, r#"{"error":"not_authorized","reason":"Not_Authorized"}"#),
    }
    let Some(queue) = path.strip_prefix("/api/queues/%2F/") else {
        return match path {
            "/api/nodes" | "/below/api/nodes" => json(StatusCode::OK, nodes),
            _ => json(StatusCode::NOT_FOUND, r#"{"error":"Object Not Found","reason":"Not Found"}"#),
        };
    };
    let ends = |name: &str| queue.ends_with(&format!(".{name}"));
    if ends("resets.main") {
        json(StatusCode::OK, include_str!("management/quorum-of-one.json"))
    } else if ends("resets.outcomes") {
        json(StatusCode::OK, include_str!("management/stream-of-one.json"))
    } else if ends("emails") {
        json(StatusCode::OK, include_str!("management/quorum-with-policy.json"))
    } else if ends("parked.10m") {
        json(StatusCode::NOT_FOUND, r#"{"error":"Object Not Found","reason":"Not Found"}"#)
    } else {
        json(StatusCode::OK, include_str!("management/quorum-of-three.json"))
    }
}

/// `check` with this URL: its lines about the cluster, without the prefix.
async fn cluster(world: &World, url: &str) -> String {
    let run = Run::of(world, &["check"]).config(&format!("[amqp]\nmanagement_url = {url:?}\n"));
    let (code, out, err) = run.end().await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("s3cr3t") && !err.contains("s3cr3t"), "{out}{err}");
    let mut lines = Vec::new();
    let mut is_of_it = false;
    for line in out.lines() {
        if !line.starts_with(' ') {
            is_of_it = [" nodes  ", " replicas  "].iter().any(|what| line.contains(what));
        }
        if is_of_it {
            lines.push(line.replace(&world.prefix, "PREFIX."));
        }
    }
    lines.join("\n").replace(&world.prefix.replace('.', "\\."), "PREFIX\\.")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_which_queues_lack_replicas_and_what_to_type() {
    let world = Plan::new().prepare().await;
    declare(&world.connection, &resetd::amqp::names::Names::new(&world.prefix, "main")).await;
    let (base, asked) = recorded(NODES).await;
    insta::assert_snapshot!("too few replicas", cluster(&world, &base).await);
    let asked: Vec<String> = std::mem::take(&mut asked.lock().unwrap());
    assert_eq!(asked[0], "guest:guest /api/nodes", "by the user of amqp.url");
    let lane = format!("guest:guest /api/queues/%2F/{}resets.main", world.prefix);
    assert_eq!(asked.iter().filter(|line| **line == lane).count(), 1, "{asked:?}");
    let (base, _) = recorded(include_str!("management/nodes-one-down.json")).await;
    // By a user of its own, whose name and password are escaped.
    let own = base.replace("http://", "http://ops%2F1:s3cr3t%40@");
    says(&cluster(&world, &own).await, &["warn  nodes", "2 of 3 run; not these: rabbit@n3", "forget_cluster_node"]);
    let (base, asked) = recorded(NODES).await;
    says(&cluster(&world, &format!("{base}/below/")).await, &["all 3 run"]);
    assert_eq!(asked.lock().unwrap()[0], "guest:guest /below/api/nodes", "the API may be below a path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_management_api_that_does_not_answer_is_a_warning_and_none_is_said() {
    let world = Plan::new().prepare().await;
    let (base, _) = recorded(NODES).await;
    let at = |user: &str| base.replace("http://", &format!("http://{user}@"));
    for (url, parts) in [
        (at("guest:s3cr3t"), ["401: Not_Authorized", "correct user and password"]),
        (at("mgmt:mgmt"), ["401: Not monitor user", "set_user_tags USER monitoring"]),
        (format!("{base}/elsewhere"), ["404", "rabbitmq_management"]),
        ("http://guest:s3cr3t@127.0.0.1:1".to_owned(), ["refused", "rabbitmq_management"]),
        (world.orgs["main"].base.clone(), ["404", "correct amqp.management_url"]),
        (
            world.amqp_url.replace("amqp://", "http://").replace("/%2f", ""),
            ["at http://127.0.0.1", "amqp.management_url"],
        ),
    ] {
        let said = cluster(&world, &url).await;
        says(&said, &["warn  replicas", "not looked at: the management API at http://127.0.0.1"]);
        says(&said, &parts);
    }
    says(&cluster(&world, "").await, &["ok    replicas", "amqp.management_url is not set", "docs/operations.md"]);
}

/// The plugin as it is, on whichever version is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_api_of_one_node_is_understood() {
    let node = Arc::new(Broker::private());
    let world = Plan::at(&node.url).prepare().await;
    declare(&world.connection, &resetd::amqp::names::Names::new(&world.prefix, "main")).await;
    // The node has it for TLS, which it does not take.
    let port = node.tls_port();
    std::fs::write(node.folder().join("enabled_plugins"), "[rabbitmq_management].\n").unwrap();
    let listen = format!(
        "ctl eval application:set_env(rabbitmq_management,tcp_config,[{{port,{port}}},{{ip,\"127.0.0.1\"}}],[{{persistent,true}}])."
    );
    node.told(listen).await;
    node.told("ctl eval rabbit_plugins:ensure(filename:absname(element(2,application:get_env(rabbit,enabled_plugins_file)))).").await;
    let base = format!("http://127.0.0.1:{port}");
    eventually("the API answers", async || reqwest::get(format!("{base}/api/nodes")).await.ok()).await;
    says(&cluster(&world, &base).await, &["ok    replicas", "the broker is one node"]);
}
