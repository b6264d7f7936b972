//! Where traces go: the layer that makes OpenTelemetry's spans of ours, and a thread of its own that sends them to the collector.
//!
//! No job waits for it. What the collector does not take is lost, with one warning until it takes something again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use reqwest::Url;
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

use super::logs::Traces;
use crate::domain::trace::TraceParent;

/// What our spans go under: `traces` makes them all.
const TARGET: &str = "resetd::telemetry::traces";
/// How long a span waits for others to be sent with.
const BATCH: Duration = Duration::from_secs(1);
/// How long the collector may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the process waits at its end for the last spans to be sent.
const LAST: Duration = Duration::from_secs(1);
/// Where a collector takes traces below its base URL (OTLP 1.9, section "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

/// Traces on their way to a collector.
#[derive(Debug)]
pub struct Exporting(SdkTracerProvider);

impl Exporting {
    /// Sends what is left, for a second at most; what was not sent by then is lost.
    pub fn end(self) {
        // Whatever fails here was said when it failed first.
        let _ = self.0.shutdown_with_timeout(LAST);
    }
}

/// Starts sending to the collector at this URL, where there is one; within a runtime, which then does the sending.
///
/// # Errors
/// Where there is no TLS to call it with.
pub fn start(collector: Option<&Url>) -> Result<Option<(Traces, Exporting)>, Unexportable> {
    collector.map(export_to).transpose()
}

fn export_to(collector: &Url) -> Result<(Traces, Exporting), Unexportable> {
    let base = collector.as_str().trim_end_matches('/');
    let endpoint = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .timeout(ANSWER)
        .build()
        .map_err(|error| Unexportable(error.to_string()))?;
    let exporter = Otlp::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .with_timeout(ANSWER)
        .build()
        .map_err(|error| Unexportable(error.to_string()))?;
    let exporter = Exporter {
        inner: Arc::new(exporter),
        runtime: Handle::current(),
        endpoint,
        is_failing: Arc::new(AtomicBool::new(false)),
    };
    let batches = BatchConfigBuilder::default().with_scheduled_delay(BATCH).build();
    let version = KeyValue::new("service.version", env!("RESETD_VERSION"));
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(Resource::builder().with_service_name("resetd").with_attribute(version).build())
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .build();
    // Our own spans alone, whatever a library makes; and no events, which are the log's.
    let ours = filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET);
    let layer = tracing_opentelemetry::layer::<Registry>()
        .with_tracer(provider.tracer("resetd"))
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false);
    Ok((layer.with_filter(ours).boxed(), Exporting(provider)))
}

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint: nothing can be sent there: {0}")]
pub struct Unexportable(String);

/// Puts a span into its producer's trace.
pub(super) fn follow(span: &Span, producer: &TraceParent) {
    if let Some(producer) = remote(producer) {
        // Refused only where no layer is there to hear of it.
        let _ = span.set_parent(Context::new().with_remote_span_context(producer));
    }
}

fn remote(producer: &TraceParent) -> Option<SpanContext> {
    let mut parts = producer.as_str().split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    // The one flag that is known: sampled (W3C Trace Context, section 3.2.2.5).
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

/// What a message says that goes on from this span.
pub(super) fn place(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let span = context.span();
    let here = span.span_context();
    let text = format!("00-{}-{}-{:02x}", here.trace_id(), here.span_id(), here.trace_flags());
    // That of no span is all zeros, which is no trace.
    TraceParent::parse(&text)
}

/// Sends batches by the process's runtime: the thread that makes them has none, and no client works without.
#[derive(Debug)]
struct Exporter {
    inner: Arc<Otlp>,
    runtime: Handle,
    endpoint: String,
    is_failing: Arc<AtomicBool>,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let sent = self.runtime.spawn(async move { inner.export(batch).await }).await;
        let sent = sent.unwrap_or_else(|_| Err(OTelSdkError::InternalFailure("the process ends".into())));
        match &sent {
            Ok(()) => self.is_failing.store(false, Ordering::Relaxed),
            Err(reason) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(endpoint = self.endpoint, %reason, "traces cannot be sent and are lost; jobs go on; look at the collector, or unset telemetry.otlp_endpoint");
                }
            }
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producers_place_is_read_from_any_version_and_only_its_sampled_flag_counts() {
        let of = |text: &str| remote(&TraceParent::parse(text).unwrap()).unwrap();
        let here = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        assert!(here.is_valid() && here.is_remote() && !here.is_sampled());
        let later = of("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-more");
        assert_eq!((later.trace_id(), later.span_id()), (here.trace_id(), here.span_id()));
        assert_eq!(later.trace_flags(), TraceFlags::SAMPLED);
    }
}
