//! The header `traceparent`: what a job's producer gave along, and what goes on with all that tells of the job's end.

use lapin::BasicProperties;
use lapin::types::AMQPValue;

use super::properties::text;
use crate::domain::trace::TraceParent;

/// The header's name.
pub(super) const TRACEPARENT: &str = "traceparent";

/// What the job's producer gave along. What is not well formed counts as not there: it holds up no job.
pub fn parent(from: &BasicProperties) -> Option<TraceParent> {
    let value = from.headers().as_ref()?.inner().get(TRACEPARENT)?;
    text(value).and_then(TraceParent::parse)
}

/// The properties of a message that belongs to the same trace.
pub fn continued(properties: BasicProperties, trace: Option<&TraceParent>) -> BasicProperties {
    let Some(trace) = trace else { return properties };
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(TRACEPARENT.into(), AMQPValue::LongString(trace.as_str().into()));
    properties.with_headers(headers)
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    #[test]
    fn a_trace_is_read_as_it_was_written_and_the_other_headers_stay() {
        let mut headers = FieldTable::default();
        headers.insert("batch".into(), AMQPValue::LongString("b".into()));
        let with_batch = BasicProperties::default().with_headers(headers);
        assert_eq!((parent(&with_batch), continued(with_batch.clone(), None)), (None, with_batch.clone()));
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let both = continued(with_batch, trace.as_ref());
        assert_eq!((parent(&both), both.headers().as_ref().unwrap().inner().len()), (trace, 2));
    }

    #[test]
    fn a_header_of_another_kind_or_form_is_no_trace() {
        for value in [AMQPValue::Boolean(true), AMQPValue::LongString("hunter2".into()), AMQPValue::Void] {
            let mut headers = FieldTable::default();
            headers.insert(TRACEPARENT.into(), value);
            assert_eq!(parent(&BasicProperties::default().with_headers(headers)), None);
        }
    }
}
