//! Traces at a collector: a job's spans in its producer's trace, nothing secret among them, and a collector that nobody waits for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::operator::process::{Process, Run, ready};
use crate::world::{
    Plan, Taken, Tap, World, eventually, exclusive, named, refusing_port, reset_body, text, with_header,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PRODUCER: &str = "b7ad6b7169203331";

/// Takes traces as an OpenTelemetry collector does, and keeps the bytes.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn start() -> Self {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        let take = async move |headers: axum::http::HeaderMap, body: Bytes| {
            assert_eq!(headers[CONTENT_TYPE], "application/x-protobuf");
            kept.lock().unwrap().push(body);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, bodies }
    }

    fn resources(&self) -> Vec<ResourceSpans> {
        let bodies = self.bodies.lock().unwrap();
        let decode = |body: &Bytes| ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans;
        bodies.iter().flat_map(decode).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let scopes = self.resources().into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits until it has the span of a job: it ends a moment after what it is told by.
    async fn has_job(&self, job: &str) {
        let has = || self.spans().iter().any(|span| said(&span.attributes, "job.id") == job);
        eventually(&format!("the span of {job} is there"), async || has().then_some(())).await;
    }

    /// The span of a job, and those within it.
    fn of_job(&self, job: &str) -> (Span, Vec<Span>) {
        let spans = self.spans();
        let own = spans.iter().find(|span| said(&span.attributes, "job.id") == job).expect("the job's span").clone();
        let within = spans.into_iter().filter(|span| span.parent_span_id == own.span_id).collect();
        (own, within)
    }

    fn holds(&self, secret: &str) -> bool {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().any(|body| body.windows(secret.len()).any(|part| part == secret.as_bytes()))
    }
}

/// An attribute as text; empty where there is none.
fn said(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value.and_then(|AnyValue { value }| value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn names(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

async fn worker(plan: Plan, collector: SocketAddr) -> (World, Process, String) {
    let world = plan.config(&format!("[telemetry]\notlp_endpoint = \"http://{collector}\"")).prepare().await;
    // As loud as it can be: neither the log nor the traces may hear more by it.
    let worker = Run::of(&world, &["--log", "json", "worker"]).env("RUST_LOG", "trace").start();
    let http = worker.http().await;
    ready(&http).await;
    (world, worker, http)
}

/// Publishes a job with a place in a trace.
async fn traced(world: &World, body: &serde_json::Value, job: &str, parent: &str, reply_to: &str) {
    let properties = with_header(named(job).with_reply_to(reply_to.into()), "traceparent", text(parent));
    world.publish("main", body.to_string().as_bytes(), properties).await;
}

/// The one mail, and the traceparent with it.
fn of_mail(mail: &Taken) -> (String, String) {
    let password = mail.json()["temporaryPassword"].as_str().unwrap().to_owned();
    (password, mail.header("traceparent").expect("a traceparent"))
}

/// Jobs end and the process ends while the collector is of no use, and one line says so.
async fn nobody_waits_for(collector: SocketAddr) {
    let (world, mut worker, _) = worker(Plan::new(), collector).await;
    world.reset_many("main", 20).await;
    world.recorded(20).await;
    let warned = || worker.stderr().matches("traces cannot be sent").count();
    eventually("it says that traces cannot be sent", async || (warned() > 0).then_some(())).await;
    for n in 0..5 {
        world.reset("main", &format!("later-{n}"), &format!("later-{n}")).await;
    }
    world.recorded(25).await;
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(worker.stderr().matches("traces cannot be sent").count(), 1, "{}", worker.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_a_part_of_its_producers_trace_and_all_that_tells_of_its_end_goes_on_from_it() {
    let collector = Collector::start().await;
    let (world, mut worker, _) = worker(Plan::new(), collector.address).await;
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), Default::default()).await.unwrap();
    let mut replies = Tap::of(&channel, queue.name().as_str()).await;
    let (mut outcomes, mut emails) = (world.outcomes().await, world.tap("emails").await);
    let parent = format!("00-{TRACE}-{PRODUCER}-01");
    traced(&world, &reset_body("u-1"), "job-1", &parent, queue.name().as_str()).await;
    let told = [emails.next().await, outcomes.next().await, replies.next().await];
    collector.has_job("job-1").await;
    assert_eq!(worker.terminated().await.0, 0, "{}", worker.stderr());

    let (own, within) = collector.of_job("job-1");
    assert_eq!((own.name.as_str(), own.kind()), ("reset", SpanKind::Consumer));
    assert_eq!((hex::encode(&own.trace_id), hex::encode(&own.parent_span_id)), (TRACE.into(), PRODUCER.into()));
    for (key, value) in [("org", "main"), ("lane", "interactive"), ("outcome", "succeeded"), ("attempts", "1")] {
        assert_eq!(said(&own.attributes, key), value, "{key}");
    }
    let (mails, records) = (world.named("notifications"), world.named("outcomes"));
    let expected = [
        "PATCH /Users/{userId}",
        "gate",
        "publish a reply",
        &format!("publish {mails}"),
        &format!("publish {records}"),
        "wait for the user's turn",
    ];
    assert_eq!(names(&within), expected.into());
    let call = within.iter().find(|span| span.kind() == SpanKind::Client).unwrap();
    assert_eq!(said(&call.attributes, "http.response.status_code"), "200");
    assert!(within.iter().all(|span| span.trace_id == own.trace_id && span.events.is_empty()));
    let goes_on = format!("00-{TRACE}-{}-01", hex::encode(&own.span_id));
    for message in &told {
        assert_eq!(message.header("traceparent").as_deref(), Some(goes_on.as_str()), "{message:?}");
    }
    for resource in collector.resources() {
        let attributes = resource.resource.unwrap().attributes;
        assert_eq!(said(&attributes, "service.name"), "resetd");
        assert!(said(&attributes, "service.version").starts_with(env!("CARGO_PKG_VERSION")));
        assert!(resource.scope_spans.iter().all(|spans| spans.scope.as_ref().unwrap().name == "resetd"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_holds_no_secret_and_no_address_and_what_a_producer_does_not_sample_is_not_exported() {
    let collector = Collector::start().await;
    let (world, mut worker, _) = worker(Plan::new(), collector.address).await;
    let mut emails = world.tap("emails").await;
    // By name, under an id with the name in it, as `enqueue` makes them; and a trace of its own.
    let by_name = json!({"userName": "agent@example.com", "password": "hunter2", "email": "agent@example.com"});
    world.publish("main", by_name.to_string().as_bytes(), named("november/agent@example.com")).await;
    let (password, root) = of_mail(&emails.next().await);
    let unsampled = format!("00-{TRACE}-{PRODUCER}-00");
    traced(&world, &reset_body("u-2"), "unsampled", &unsampled, "").await;
    let (_, still_unsampled) = of_mail(&emails.next().await);
    let nobody = json!({"userName": "nobody@elsewhere.com", "password": true, "email": "agent@example.com"});
    world.publish("main", nobody.to_string().as_bytes(), named("fails")).await;
    world.recorded(3).await;
    for job in ["november/[address]", "fails"] {
        collector.has_job(job).await;
    }
    assert_eq!(worker.terminated().await.0, 0, "{}", worker.stderr());

    let (own, within) = collector.of_job("november/[address]");
    assert_eq!(root, format!("00-{}-{}-01", hex::encode(&own.trace_id), hex::encode(&own.span_id)));
    assert!(own.parent_span_id.is_empty() && names(&within).contains("GET /Users?filter"), "{:?}", names(&within));
    assert!(still_unsampled.starts_with(&format!("00-{TRACE}-")) && still_unsampled.ends_with("-00"));
    assert!(!still_unsampled.contains(PRODUCER), "its parent is ours: {still_unsampled}");
    assert!(collector.spans().iter().all(|span| hex::encode(&span.trace_id) != TRACE));
    let (failed, _) = collector.of_job("fails");
    assert_eq!(said(&failed.attributes, "reason"), "not_found");
    assert_eq!(failed.status.unwrap().code(), StatusCode::Error);
    let hashed = hex::encode(Sha256::digest(password.as_bytes()));
    for secret in [&password, &hashed, "hunter2", "agent@example.com", "elsewhere", "demo-secret", "Bearer"] {
        assert!(!collector.holds(secret), "{secret:?} was exported");
    }
    assert!(!worker.stderr().contains("\"span\""), "the log shows no spans");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_one_line_and_nothing_else() {
    // Held to the end, so that nobody listens there.
    let gone = refusing_port();
    nobody_waits_for(gone.local_addr().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_costs_one_line_and_nothing_else() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    nobody_waits_for(address).await;
    held.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_no_url_ends_with_2() {
    let run = Run::of(&Plan::new().prepare().await, &["worker"]).config("[telemetry]\notlp_endpoint = \"collector\"");
    crate::operator::process::ends(run, 2, &["telemetry.otlp_endpoint", "\"collector\"", "http://127.0.0.1:4318"])
        .await;
}
