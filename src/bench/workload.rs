//! What is asked in a benchmark: texts of our own, the same for the same number, so that every server gets the same work.

use super::client::Question;

/// Easy questions, as most are.
const EASY: [&str; 24] = [
    "What is the capital of Portugal?",
    "Translate \"good morning\" into Italian.",
    "Write one friendly sentence to say that the meeting moves to Thursday.",
    "Name three fruits that are yellow.",
    "What does the word \"ledger\" mean?",
    "Fix the spelling: \"I recieved teh parcel yesterday.\"",
    "How many minutes are in three hours?",
    "Give a short title for a note about watering plants.",
    "Is a tomato a fruit?",
    "Turn this into a question: \"The shop opens at nine.\"",
    "List the days of the week.",
    "Which is larger, a lake or a pond?",
    "Say thank you in three languages.",
    "Write a subject line for an email about a lost umbrella.",
    "What colour do you get from blue and yellow?",
    "Put these in order: March, January, February.",
    "Summarise in five words: \"The train was late because of snow.\"",
    "What is the opposite of \"shallow\"?",
    "Continue the list: one, two, three.",
    "Make this polite: \"Send me the file.\"",
    "What do bees make?",
    "Write a birthday greeting for a colleague.",
    "How do you spell the number 40?",
    "Name a city in Japan.",
];

/// Questions that a small model is likely to get wrong.
const HARD: [&str; 6] = [
    "Prove that there are infinitely many primes congruent to 3 modulo 4, and explain each step of the argument.",
    "A tank is filled by two pipes in 12 and 18 minutes and emptied by a third in 24 minutes. All three are opened, and \
     after 6 minutes the third is closed. How long does it take in all to fill the tank? Show your reasoning.",
    "Analyze the trade-offs between optimistic and pessimistic concurrency control for a ledger with hot accounts, and \
     design a protocol that keeps its invariants when a node crashes between two writes.",
    "Let f be a continuous function on [0, 1] with f(0) = f(1). Show that for every natural n there is an x with \
     f(x) = f(x + 1/n), and give a counterexample for distances that are not of this form.",
    "Evaluate and compare the causes that historians give for the fall of the Western Roman Empire, and synthesize them \
     into one comprehensive account that weighs the evidence for each.",
    "Write a function that returns the k-th smallest element of two sorted arrays in logarithmic time, prove that it \
     terminates, and list the edge cases that a test-suite must cover:\n```python\ndef kth(a: list, b: list, k: int):\n```",
];

/// One hard question in every five.
const HARD_EVERY: usize = 5;

/// Question `number` of the mixed day's work: four easy ones, then a hard one.
pub fn mixed(number: usize, max_tokens: u32) -> Question {
    let round = number / HARD_EVERY;
    let user = if number % HARD_EVERY == HARD_EVERY - 1 {
        HARD[round % HARD.len()]
    } else {
        EASY[(round * (HARD_EVERY - 1) + number % HARD_EVERY) % EASY.len()]
    };
    Question { system: None, user: user.to_owned(), max_tokens }
}

const FILLER: [&str; 16] = [
    "the", "river", "carries", "its", "water", "slowly", "past", "an", "old", "mill", "where", "stone", "walls",
    "keep", "cool", "shade",
];

/// About `words` words of plain text that differ with `seed`.
fn prose(words: usize, seed: u64) -> String {
    let mut text = String::with_capacity(words * 6);
    let mut state = seed;
    for place in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(FILLER[(state >> 33) as usize % FILLER.len()]);
        text.push_str(if place % 12 == 11 { ". " } else { " " });
    }
    text
}

/// What makes the texts of one run, round and server its own: no server may find another's in its cache, or its own of an
/// earlier run. Lengths depend on the number alone, so that everybody gets the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(u64);

impl Salt {
    /// For this process, one round and one server.
    pub fn new(run: u64, round: u32, server: usize) -> Self {
        let mixed = (run ^ (u64::from(round) << 32)).wrapping_add(server as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(mixed ^ (mixed >> 29))
    }

    fn with(self, number: usize) -> u64 {
        self.0 ^ (number as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

/// Prompts from a line to a page, none like another.
pub fn lengths(salt: Salt, number: usize, max_tokens: u32) -> Question {
    const WORDS: [usize; 8] = [12, 30, 60, 20, 120, 240, 40, 400];
    let words = WORDS[number % WORDS.len()];
    Question { system: None, user: format!("{} Tell a story about it.", prose(words, salt.with(number))), max_tokens }
}

/// Different questions after the same long instructions (about `words` words, one token each or a little more).
pub fn shared_prefix(salt: Salt, number: usize, words: usize, max_tokens: u32) -> Question {
    let system = format!("{} Answer as the keeper of the mill.", prose(words, salt.with(0)));
    Question { system: Some(system), user: format!("Visitor {number} asks: what do you see today?"), max_tokens }
}

/// One prompt of about `words` words that nothing shares.
pub fn long(salt: Salt, number: usize, words: usize) -> Question {
    Question {
        system: None,
        user: format!("{} In one word: what is it about?", prose(words, salt.with(7919 + number))),
        max_tokens: 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_in_five_is_hard_and_numbers_repeat_the_work() {
        let hard = (0..100).filter(|number| HARD.contains(&mixed(*number, 8).user.as_str())).count();
        assert_eq!(hard, 20);
        assert_eq!(mixed(7, 8).user, mixed(7, 8).user);
        assert_ne!(mixed(0, 8).user, mixed(1, 8).user);
    }

    #[test]
    fn only_the_shared_prefix_is_shared() {
        let salt = Salt::new(5, 0, 0);
        let (one, two) = (shared_prefix(salt, 1, 1000, 8), shared_prefix(salt, 2, 1000, 8));
        assert_eq!(one.system, two.system);
        assert_ne!(one.user, two.user);
        assert_ne!(long(salt, 1, 50).user, long(salt, 2, 50).user);
        // The first words differ already: a cache holds beginnings.
        let others = [Salt::new(6, 0, 0), Salt::new(5, 1, 0), Salt::new(5, 0, 1)]
            .map(|salt| shared_prefix(salt, 1, 1000, 8).system);
        for other in others {
            let common = other
                .iter()
                .zip(&one.system)
                .map(|(other, one)| other.bytes().zip(one.bytes()).take_while(|(a, b)| a == b).count());
            assert!(common.sum::<usize>() < 60);
        }
        assert_eq!(prose(1000, 3).split_whitespace().count(), 1000);
    }
}
