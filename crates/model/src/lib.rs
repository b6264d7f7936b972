//! An executable model of leadership and takeover: `docs/development/leadership.md` has the argument, this crate tries to break it.
//!
//! [`Leadership`] holds for each state which steps are possible; the checker takes all of them, in every order. A step is
//! of the broker (hand the queue over, assign a ping, write a record to the stream), of a candidate (send a ping, fence, call, publish), or
//! of time. No candidate has to take a step: one that is stopped, for however long, is one that takes none.
//!
//! [`Bound`] names what the argument rests on. Without any one of them the checker finds two callers, or a lost outcome.
//!
//! Time is in ticks of half a second or more; [`FRESH`], [`GRACE`], [`SPARE`] keep the order of the real durations.

mod candidate;
mod steps;

use stateright::{Model, Property};

pub use candidate::{Candidate, Fence, Job, Phase, Ping, Release, Standing};

/// No call begins later after the send time of the newest own ping that came back (1.5 s).
pub const FRESH: u8 = 2;
/// How long after the end of the last call its outcome may be published (1 s).
pub const GRACE: u8 = 1;
/// How long a successor waits beyond all that, for clocks that differ and for what lies between a look and the action (0.5 s).
pub const SPARE: u8 = 1;

/// A candidate, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub u8);

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0))
    }
}

/// What the argument rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A proof is dated when its ping was sent, not when it came back.
    SendTime,
    /// Only a ping of one's own registration is a proof: of any other the send time is not known.
    RegistrationId,
    /// A successor waits until its predecessor can neither call nor publish.
    Wait,
    /// It waits by the `request_timeout` in its predecessors' fences, not by its own.
    LeadersTimeout,
    /// By the longest one of all fences, not by that of the last: the last name may never have led.
    LongestTimeout,
    /// It waits from when its fence was read, not from when its own first ping came back.
    WaitFromFence,
    /// And from when a ping came back that was sent after that: until then it may not be active any more.
    WaitFromPing,
    /// It waits for longer than the predecessor may take.
    Spare,
    /// It starts over where its proof lapses while it waits.
    UnbrokenWait,
    /// It fences again after its wait, and reads what its predecessor published meanwhile.
    SecondFence,
    /// A leader whose proof lapsed fences before it calls again.
    FenceAfterLapse,
    /// A fence counts only while the proof holds without a lapse, from before it was written until it is read.
    FenceWithinProof,
    /// Every name behind the fence that it last led by counts, not only the name right before the new fence.
    AllNamesBetween,
    /// The second fence of a takeover is no name in the stream: who came between the two is still seen.
    OneNameATerm,
    /// Outcomes are published within the grace or by a leader, else not at all.
    PublishGrace,
    /// A ping that came back after a lapse does not reopen publishing: a fence does.
    PublishByFence,
    /// `released` is of one term: it says nothing of a later one.
    ReleasedOfTerm,
    /// Only who has led writes `released`.
    ReleasedByLeader,
}

/// The model: some candidates for one org, and the broker.
#[derive(Debug, Clone)]
pub struct Leadership<const N: usize> {
    /// The `request_timeout` of each candidate.
    pub request_timeout: [u8; N],
    /// How often the broker makes another consumer active in one run; `None`: any number. More than two in one takeover are covered only with
    /// `hold_newest`: an own ping that comes back within each [`FRESH`] does not tell that nobody else was active in between.
    pub handovers: Option<u8>,
    /// Each candidate holds its newest own ping until the next comes back. A hand-over returns it to the queue, so who is active next sees it
    /// and takes its proof as lapsed: a remedy for any number of hand-overs.
    pub hold_newest: bool,
    /// Whether calls leave an outcome behind.
    pub outcomes: bool,
    /// Whether leaders release.
    pub releases: bool,
    /// Whether candidates are killed and start again.
    pub kills: bool,
    /// Whether a fence that was given up may be written later.
    pub late_fences: bool,
    /// What is taken away.
    pub without: Option<Bound>,
}

impl<const N: usize> Leadership<N> {
    /// As designed.
    #[must_use]
    pub const fn new(request_timeout: [u8; N], handovers: Option<u8>) -> Self {
        Self {
            request_timeout,
            handovers,
            hold_newest: false,
            outcomes: true,
            releases: true,
            kills: true,
            late_fences: true,
            without: None,
        }
    }

    /// As designed, but for one bound.
    #[must_use]
    pub fn without(self, bound: Bound) -> Self {
        Self { without: Some(bound), ..self }
    }

    pub(crate) fn has(&self, bound: Bound) -> bool {
        self.without != Some(bound)
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    /// Whose consumer the broker has made active.
    pub active: Id,
    /// How many hand-overs are left.
    pub handovers: Option<u8>,
    /// Whose newest ping is held, with [`Leadership::hold_newest`].
    pub holds: Option<Id>,
    /// Whose clock has lost a tick: one in a run, by which any two clocks differ.
    pub slow: Option<Id>,
    /// The last name in the stream; `None`: there is none, or that one wrote `released`.
    pub last: Option<Id>,
    /// Whether that is a fence that its writer had given up: no `released` is of it.
    pub last_is_late: bool,
    /// The longest `request_timeout` in the stream's fences.
    pub longest: u8,
    /// The candidates.
    pub candidates: [Candidate; N],
}

impl<const N: usize> State<N> {
    pub(crate) fn of(&self, id: Id) -> &Candidate {
        &self.candidates[usize::from(id.0)]
    }

    pub(crate) fn of_mut(&mut self, id: Id) -> &mut Candidate {
        &mut self.candidates[usize::from(id.0)]
    }

    pub(crate) fn others(&mut self, id: Id) -> impl Iterator<Item = &mut Candidate> {
        self.candidates
            .iter_mut()
            .enumerate()
            .filter(move |(place, _)| *place != usize::from(id.0))
            .map(|(_, other)| other)
    }

    fn any(&self, is: impl Fn(&Candidate) -> bool) -> bool {
        self.candidates.iter().any(is)
    }

    fn callers(&self) -> usize {
        self.candidates.iter().filter(|candidate| matches!(candidate.job, Job::Calling(_))).count()
    }
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A tick of time, which this candidate's clock may miss.
    Tick(Option<Id>),
    /// The broker makes this consumer active, and tells nobody.
    HandOver(Id),
    /// The candidate publishes a ping. An older one that is still on its way is lost.
    Send(Id),
    /// The broker assigns this candidate's ping to whoever is active.
    Assign(Id),
    /// The candidate receives what was assigned to it.
    Receive(Id),
    /// The candidate sends a fence to the stream.
    WriteFence(Id),
    /// The fence is in the stream.
    FenceLands(Id),
    /// One that the candidate gave up is in the stream.
    LateFenceLands(Id),
    /// The candidate reads up to its fence, and goes on as that says.
    ReadFence(Id),
    /// The candidate reads that its predecessor released.
    ReadReleased(Id),
    /// The leader calls.
    Call(Id),
    /// The call has ended, before its `request_timeout`.
    EndCall(Id),
    /// The candidate sends the outcome of its call to the stream.
    Publish(Id),
    /// The outcome is in the stream: within the tick. What takes longer is not covered.
    OutcomeLands(Id),
    /// The leader, with nothing in flight, sends `released` and leads no more.
    Release(Id),
    /// `released` is in the stream.
    ReleasedLands(Id),
    /// The process is killed, and starts again. What it has on its way remains so.
    Kill(Id),
}

/// Never two callers.
pub const ONE_CALLER: &str = "never two callers at once";
/// No outcome is lost.
pub const NO_OUTCOME_LOST: &str = "a leader has read every outcome before its term";
/// A takeover.
pub const TAKEN_OVER: &str = "a takeover completes while the predecessor says nothing";
/// A takeover by `released`.
pub const RELEASED: &str = "a waiting successor reads `released` and begins at once";
/// A → B → A.
pub const TO_AND_FRO: &str = "the queue goes to another, who has a proof, and back, and the leader does not know";
/// A lapse.
pub const LAPSE_SURVIVED: &str = "a leader goes on after a lapse by a fence alone";

impl<const N: usize> Model for Leadership<N> {
    type State = State<N>;
    type Action = Step;

    fn init_states(&self) -> Vec<State<N>> {
        let candidates = [const { Candidate::new() }; N];
        vec![State {
            active: Id(0),
            handovers: self.handovers,
            holds: None,
            slow: None,
            last: None,
            last_is_late: false,
            longest: 0,
            candidates,
        }]
    }

    fn actions(&self, state: &State<N>, steps: &mut Vec<Step>) {
        self.possible(state, steps);
    }

    fn next_state(&self, state: &State<N>, step: Step) -> Option<State<N>> {
        let mut next = state.clone();
        self.take(&mut next, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_CALLER, |_, state: &State<N>| state.callers() < 2),
            Property::always(NO_OUTCOME_LOST, |_, state: &State<N>| !state.any(|me| me.leads() && me.unread)),
            Property::sometimes(TAKEN_OVER, |_, state: &State<N>| {
                state.any(|me| me.phase == Phase::FencingAgain && me.is_fresh() && matches!(me.fence, Fence::Landed(_)))
            }),
            Property::sometimes(LAPSE_SURVIVED, |_, state: &State<N>| {
                state.any(|me| me.is_fresh() && me.fence == Fence::Landed(Standing::Ourselves))
            }),
            Property::sometimes(TO_AND_FRO, |_, state: &State<N>| {
                let proven = state.candidates.iter().filter(|candidate| candidate.is_fresh()).count();
                state.of(state.active).leads() && proven > 1
            }),
        ];
        if self.releases {
            properties.push(Property::sometimes(RELEASED, |_, state: &State<N>| {
                state.any(|me| matches!(me.phase, Phase::Waiting(1..)) && me.awaits == Release::Landed)
            }));
        }
        properties
    }
}
