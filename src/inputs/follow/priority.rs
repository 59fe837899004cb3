//! The opener's priority: it runs for microseconds and must not wait for the readers, or files are rotated away unseen.
//!
//! Real time (SCHED_FIFO 1) where the process may (CAP_SYS_NICE, or RLIMIT_RTPRIO), else nice -20, else as it is; said
//! once. At Docker's full write speed with `max-size=10k max-file=3` that is the difference between a few generations of
//! thousands, mostly none, and a tenth of the lines (README, "Not there yet"). `priority = "normal"` asks for nothing.

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Raises the priority of this thread alone.
pub fn hurry(input: &str) {
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let Err(refused) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, fifo) else {
        tracing::debug!(input, "the opener runs with real-time priority");
        return;
    };
    match rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20) {
        Ok(()) => tracing::debug!(input, ?refused, "the opener runs with nice -20: real-time priority was refused"),
        Err(_) => tracing::info!(
            input,
            "the opener runs without a raised priority (no CAP_SYS_NICE, no limit rtprio of 1): on a busy machine, logs that rotate many times a second may be rotated away unseen, which is counted"
        ),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;
    use rustix::thread::gettid;
    use thread_priority::thread_schedule_policy;

    use super::*;

    fn now() -> (ThreadSchedulePolicy, i32) {
        (thread_schedule_policy().expect("known"), getpriority_process(Some(gettid())).expect("known"))
    }

    #[test]
    fn a_thread_that_hurries_has_real_time_priority_where_it_may_and_no_other_thread_has() {
        let before = now();
        let hurried = std::thread::spawn(|| {
            hurry("in");
            now()
        });
        let (policy, nice) = hurried.join().expect("no panic");
        let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        if rustix::process::geteuid().is_root() {
            assert_eq!(policy, fifo);
        } else {
            assert!(
                policy == fifo || policy == before.0 && (nice == -20 || nice == before.1),
                "{policy:?}, nice {nice}"
            );
        }
        assert_eq!(now(), before);
    }
}
