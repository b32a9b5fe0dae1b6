//! What a process draws from the kernel, made a function of the seed: random bytes and the wall clock. Hash maps, jitter, ids,
//! and the order in which the runtime wakes who waits for the same thing all hang on them. The two calls of the C library
//! are replaced in this test binary, and only for the thread that asked for it: elsewhere they do what they always do.

use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

/// 2026-01-01, at noon: a day's end is hours away, unless the clock jumps.
const EPOCH_NS: i64 = 1_767_268_800_000_000_000;

thread_local! {
    static BYTES: Cell<Option<u64>> = const { Cell::new(None) };
    /// When virtual time began, and what the wall clock has jumped since.
    static WALL: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
}

/// From now on this thread's random bytes follow from the seed.
pub(super) fn seed(seed: u64) {
    BYTES.set(Some(seed));
}

/// From now on this thread's wall clock follows virtual time, of which so much has passed.
pub(super) fn begin_wall(passed: Duration) {
    WALL.set(Some((Instant::now(), passed.as_nanos() as i64)));
}

pub(super) fn end_wall() {
    WALL.set(None);
}

/// Somebody sets the clock.
pub(super) fn jump(milliseconds: i64) {
    if let Some((began, jumped)) = WALL.get() {
        WALL.set(Some((began, jumped + milliseconds * 1_000_000)));
    }
}

/// The next number after `state`: Steele, Lea and Flood's splitmix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(all(target_os = "linux", target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(unsafe_code, reason = "two symbols of the C library are replaced, and the kernel is asked in their place")]
mod replaced {
    use super::{BYTES, EPOCH_NS, WALL, next};
    use std::ffi::{c_int, c_long, c_uint};
    use tokio::time::Instant;

    #[cfg(target_arch = "x86_64")]
    const GETRANDOM: c_long = 318;
    #[cfg(target_arch = "x86_64")]
    const CLOCK_GETTIME: c_long = 228;
    #[cfg(target_arch = "aarch64")]
    const GETRANDOM: c_long = 278;
    #[cfg(target_arch = "aarch64")]
    const CLOCK_GETTIME: c_long = 113;
    /// `CLOCK_REALTIME` and its coarse sister.
    const WALL_CLOCKS: [c_int; 2] = [0, 5];

    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }

    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }

    /// # Safety
    /// As the C library asks for: `buffer` has room for `length` bytes.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: c_uint) -> isize {
        let Some(mut state) = BYTES.get() else {
            // SAFETY: handed on as it came.
            return unsafe { syscall(GETRANDOM, buffer, length, flags) } as isize;
        };
        for at in 0..length {
            // SAFETY: the caller has room for `length` bytes there.
            unsafe { buffer.add(at).write(next(&mut state) as u8) };
        }
        BYTES.set(Some(state));
        length as isize
    }

    /// # Safety
    /// As the C library asks for: `time` points to room for a time.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
        let wall = WALL.get().filter(|_| WALL_CLOCKS.contains(&clock));
        let Some((began, jumped)) = wall else {
            // SAFETY: handed on as it came.
            return unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), time) } as c_int;
        };
        let passed = Instant::now().duration_since(began).as_nanos() as i64;
        let now = EPOCH_NS + passed + jumped;
        let told = Timespec { seconds: now / 1_000_000_000, nanoseconds: now % 1_000_000_000 };
        // SAFETY: the caller has room for it there.
        unsafe { time.write(told) };
        0
    }
}
