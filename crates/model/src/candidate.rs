//! What a candidate knows, and what it has on its way.

use crate::{FRESH, Id};

/// One candidate: a worker process that leads or stands by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Its newest ping.
    pub ping: Ping,
    /// Whether the ping that another held is assigned to it, before its own: only with [`crate::Leadership::hold_newest`].
    pub interrupted: bool,
    /// How long ago the newest own ping was sent that came back, by its own clock; [`FRESH`]: too long.
    pub proof: u8,
    /// How long its proof has held without a lapse. Kept only without [`crate::Bound::WaitFromFence`].
    pub proven_for: u8,
    /// What it does.
    pub phase: Phase,
    /// The fence that it works with.
    pub fence: Fence,
    /// Whether a fence that it gave up is still on its way.
    pub late_fence: bool,
    /// Whether it has led by a fence of its own and read no other name behind that.
    pub settled: bool,
    /// Whether in the stream no other name stands behind its newest fence.
    pub alone: bool,
    /// Whose `released` ends its wait.
    pub awaits: Release,
    /// Whether its `released` is on its way to the stream. One of a term before its newest fence says nothing, and is forgotten.
    pub released: bool,
    /// Its call, and what becomes of it. One at a time stands for many.
    pub job: Job,
    /// How long ago the newest own ping was sent that came back while it led: what its outcomes may be published by.
    pub led: u8,
    /// Whether an outcome of another stands behind what it has read to.
    pub unread: bool,
}

/// A ping, with the time since it was sent by its sender's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ping {
    /// None that could still be a proof.
    None,
    /// On its way to the broker, or in the queue.
    Sent(u8),
    /// Assigned to its sender, and on its way back.
    Assigned(u8),
    /// Another's, assigned to this candidate. Only without [`crate::Bound::RegistrationId`].
    OfAnother,
}

/// What a candidate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Stands by.
    Standby,
    /// Has sent its first fence.
    Fencing,
    /// Has read it, and waits for a ping sent since, to wait from then for so long. `true`: its ping on the way is older.
    Proving(u8, bool),
    /// Waits for so long until its predecessor can do nothing more.
    Waiting(u8),
    /// Has sent the fence after its wait.
    FencingAgain,
    /// Leads.
    Leading,
}

/// A fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// None.
    None,
    /// On its way.
    Sent,
    /// In the stream, where this stands before it (of a second fence nothing is asked). Its writer has not read it yet.
    Landed(Standing),
}

/// Who led before, as the stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The candidate itself.
    Ourselves,
    /// Nobody, or one that released.
    Nobody,
    /// Another, maybe, and its calls take at most so long.
    Another(u8),
}

/// What a waiting successor knows of its predecessor's `released`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Release {
    /// There is nobody whose `released` would help.
    OfNobody,
    /// It would help if this one released.
    Awaited(Id),
    /// It is in the stream.
    Landed,
}

/// A call and its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Job {
    /// None.
    None,
    /// The call is in flight, for so long at most.
    Calling(u8),
    /// The call has ended, and its outcome is not published.
    Ended,
    /// The outcome is on its way to the stream.
    Publishing,
}

impl Candidate {
    pub(crate) const fn new() -> Self {
        Self {
            ping: Ping::None,
            interrupted: false,
            proof: FRESH,
            proven_for: 0,
            phase: Phase::Standby,
            fence: Fence::None,
            late_fence: false,
            settled: false,
            alone: false,
            awaits: Release::OfNobody,
            released: false,
            job: Job::None,
            led: 0,
            unread: false,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.phase == Phase::Leading
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.proof < FRESH
    }

    /// Whether what comes into the stream from now on is not read before it leads.
    pub(crate) fn reads_no_further(&self) -> bool {
        self.leads() || self.awaits == Release::Landed || matches!(self.fence, Fence::Landed(_))
    }

    /// Gives up its term, or its takeover. A fence that is on its way stays so.
    pub(crate) fn stand_by(&mut self, late_fences: bool) {
        self.late_fence |= late_fences && self.fence == Fence::Sent;
        (self.phase, self.fence) = (Phase::Standby, Fence::None);
        (self.awaits, self.unread) = (Release::OfNobody, false);
    }

    /// Leads. Where another may have led meanwhile, an unpublished outcome of before is void: its job comes again.
    pub(crate) fn lead(&mut self, again: bool) {
        (self.phase, self.fence, self.awaits) = (Phase::Leading, Fence::None, Release::OfNobody);
        self.settled = true;
        if !again && self.job == Job::Ended {
            self.job = Job::None;
        }
    }

    /// A process that is killed publishes nothing more; its call and its fence are on their way.
    pub(crate) fn start_again(&mut self, late_fences: bool, last_publish: u8) {
        self.stand_by(late_fences);
        (self.ping, self.interrupted) = (Ping::None, false);
        (self.proof, self.settled, self.led) = (FRESH, false, last_publish);
        if self.job == Job::Ended {
            self.job = Job::None;
        }
    }
}
