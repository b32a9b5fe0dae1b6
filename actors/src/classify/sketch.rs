//! What the classifier sees of a prompt: hashed words and word pairs, and a handful of counts. The runtime and the training
//! program call this one function, so a feature cannot mean two things. It reads each character once and keeps no text.

use super::window::Window;

/// Buckets that words and word pairs are hashed into.
pub const BUCKETS: usize = 1 << 16;
const BITMAP_WORDS: usize = BUCKETS / 64;

/// Names of the counts, in the order of [`Sketch::dense`].
pub const DENSE_NAMES: [&str; 36] = [
    "length",
    "words",
    "mean word length",
    "longest word",
    "distinct share",
    "digit share",
    "numbers",
    "longest number",
    "numbers per word",
    "upper-case share",
    "capitalised share",
    "punctuation share",
    "non-ASCII share",
    "lines",
    "words per line",
    "indented share",
    "question marks",
    "sentences",
    "words per sentence",
    "maths symbols",
    "maths share",
    "backslashes",
    "dollar signs",
    "brackets",
    "bracket share",
    "code marks",
    "code fences",
    "quotes",
    "commas",
    "blanks to fill",
    "options",
    "option words",
    "ends with a question mark",
    "ends like a sentence",
    "percent signs",
    "short words share",
];
pub const DENSE: usize = DENSE_NAMES.len();

/// The features of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    pub dense: [f32; DENSE],
    /// Distinct buckets of words and word pairs, in order of first appearance.
    pub buckets: Vec<u16>,
}

/// Sketches a prompt. Time and memory are bounded by the window, whatever the prompt's length.
pub fn sketch(prompt: &str) -> Sketch {
    let window = Window::of(prompt);
    let mut scan = Scan::new(window.head.len() + window.tail.len());
    for text in [window.head, window.tail] {
        for letter in text.chars() {
            scan.take(letter);
        }
        scan.end_word();
    }
    scan.finish(prompt.len())
}

/// Counts while reading. All fields are counts of characters or words unless their name says otherwise.
struct Scan {
    seen: [u64; BITMAP_WORDS],
    buckets: Vec<u16>,
    word: Word,
    /// Hash of the word before this one; 0 at the beginning.
    before: u32,
    letters: u32,
    words: u32,
    word_letters: u32,
    longest_word: u32,
    new_words: u32,
    short_words: u32,
    digits: u32,
    numbers: u32,
    longest_number: u32,
    upper: u32,
    capitalised: u32,
    punctuation: u32,
    non_ascii: u32,
    lines: u32,
    indented: u32,
    questions: u32,
    sentences: u32,
    maths: u32,
    backslashes: u32,
    dollars: u32,
    brackets: u32,
    code: u32,
    backticks: u32,
    quotes: u32,
    commas: u32,
    blanks: u32,
    options: u32,
    option_words: u32,
    percents: u32,
    last: char,
    last_visible: char,
    /// Visible characters since the line began.
    column: u32,
    in_options: bool,
}

/// The word being read.
#[derive(Default)]
struct Word {
    hash: u32,
    letters: u32,
    digits: u32,
    capital: bool,
}

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;
/// Numbers are told apart by their length only: their value says little about the task.
const NUMBER: u32 = 0x5bd1_e995;

impl Scan {
    fn new(bytes: usize) -> Self {
        Self {
            seen: [0; BITMAP_WORDS],
            buckets: Vec::with_capacity(bytes / 2),
            word: Word::default(),
            before: 0,
            letters: 0,
            words: 0,
            word_letters: 0,
            longest_word: 0,
            new_words: 0,
            short_words: 0,
            digits: 0,
            numbers: 0,
            longest_number: 0,
            upper: 0,
            capitalised: 0,
            punctuation: 0,
            non_ascii: 0,
            lines: 1,
            indented: 0,
            questions: 0,
            sentences: 0,
            maths: 0,
            backslashes: 0,
            dollars: 0,
            brackets: 0,
            code: 0,
            backticks: 0,
            quotes: 0,
            commas: 0,
            blanks: 0,
            options: 0,
            option_words: 0,
            percents: 0,
            last: '\n',
            last_visible: ' ',
            column: 0,
            in_options: false,
        }
    }

    fn take(&mut self, letter: char) {
        self.letters += 1;
        if letter.is_ascii_alphanumeric() || (!letter.is_ascii() && letter.is_alphanumeric()) {
            self.grow_word(letter);
        } else {
            let ended = self.end_word();
            self.mark(letter, ended);
        }
        if !letter.is_whitespace() {
            self.last_visible = letter;
            self.column += 1;
        }
        if !letter.is_ascii() {
            self.non_ascii += 1;
        }
        self.last = letter;
    }

    fn grow_word(&mut self, letter: char) {
        let word = &mut self.word;
        if word.letters == 0 {
            word.hash = FNV_OFFSET;
            word.capital = letter.is_ascii_uppercase();
        }
        word.letters += 1;
        if letter.is_ascii_digit() {
            word.digits += 1;
            self.digits += 1;
        } else if letter.is_ascii_uppercase() {
            self.upper += 1;
        }
        let lower = if letter.is_ascii() { letter.to_ascii_lowercase() } else { lower(letter) };
        word.hash = (word.hash ^ lower as u32).wrapping_mul(FNV_PRIME);
    }

    /// Ends the word being read, if any, and says how many letters it had.
    fn end_word(&mut self) -> u32 {
        let word = std::mem::take(&mut self.word);
        if word.letters == 0 {
            return 0;
        }
        let hash = if word.digits == word.letters {
            self.numbers += 1;
            self.longest_number = self.longest_number.max(word.letters);
            NUMBER.wrapping_add(word.letters.min(6))
        } else {
            self.longest_word = self.longest_word.max(word.letters);
            word.hash
        };
        self.words += 1;
        self.word_letters += word.letters;
        self.short_words += u32::from(word.letters <= 3);
        self.capitalised += u32::from(word.capital);
        self.option_words += u32::from(self.in_options);
        if self.note(hash) {
            self.new_words += 1;
        }
        if self.before != 0 {
            self.note(self.before.rotate_left(13).wrapping_mul(FNV_PRIME) ^ hash);
        }
        self.before = hash | 1;
        word.letters
    }

    /// Keeps a bucket once.
    fn note(&mut self, hash: u32) -> bool {
        let bucket = bucket_of(hash);
        let Some(bits) = self.seen.get_mut(usize::from(bucket) / 64) else { return false };
        let bit = 1u64 << (bucket % 64);
        let new = *bits & bit == 0;
        if new {
            *bits |= bit;
            self.buckets.push(bucket);
        }
        new
    }

    fn mark(&mut self, letter: char, word_before: u32) {
        match letter {
            '\n' => {
                self.lines += 1;
                self.column = 0;
                return;
            }
            ' ' | '\t' | '\r' => {
                self.indented += u32::from(self.last == '\n');
                return;
            }
            '?' => self.questions += 1,
            '+' | '=' | '^' | '<' | '>' | '*' | '/' | '|' => self.maths += 1,
            '\\' => self.backslashes += 1,
            '$' => self.dollars += 1,
            '(' | ')' | '[' | ']' => self.brackets += 1,
            '{' | '}' | ';' | '#' | '&' | '@' => self.code += 1,
            '`' => self.backticks += 1,
            '"' | '\'' | '“' | '”' | '’' => self.quotes += 1,
            ',' => self.commas += 1,
            '_' => self.blanks += u32::from(self.last != '_'),
            '%' => self.percents += 1,
            '∑' | '∫' | '√' | '≤' | '≥' | '×' | '·' | '−' | '∈' | 'π' => self.maths += 1,
            _ => {}
        }
        if matches!(letter, '.' | '?' | '!') && self.last != letter {
            self.sentences += 1;
        }
        // A line that begins with one letter or digit and a full stop or bracket is an option.
        if matches!(letter, '.' | ')' | ':') && word_before == 1 && self.column <= 2 {
            self.options += 1;
            self.in_options = true;
        }
        if letter.is_ascii_punctuation() {
            self.punctuation += 1;
        }
    }

    fn finish(mut self, bytes: usize) -> Sketch {
        self.end_word();
        let per_letter = 1.0 / real(self.letters.max(1));
        let per_word = 1.0 / real(self.words.max(1));
        let flag = |is: bool| if is { 1.0 } else { 0.0 };
        let dense = [
            logged(u32::try_from(bytes).unwrap_or(u32::MAX)),
            logged(self.words),
            real(self.word_letters) * per_word,
            logged(self.longest_word),
            real(self.new_words) * per_word,
            real(self.digits) * per_letter,
            logged(self.numbers),
            logged(self.longest_number),
            real(self.numbers) * per_word,
            real(self.upper) * per_letter,
            real(self.capitalised) * per_word,
            real(self.punctuation) * per_letter,
            real(self.non_ascii) * per_letter,
            logged(self.lines),
            logged(self.words / self.lines.max(1)),
            real(self.indented) / real(self.lines.max(1)),
            logged(self.questions),
            logged(self.sentences),
            logged(self.words / self.sentences.max(1)),
            logged(self.maths),
            real(self.maths) * per_letter,
            logged(self.backslashes),
            logged(self.dollars),
            logged(self.brackets),
            real(self.brackets) * per_letter,
            logged(self.code),
            logged(self.backticks / 3),
            logged(self.quotes),
            logged(self.commas),
            logged(self.blanks),
            logged(self.options),
            logged(self.option_words),
            flag(self.last_visible == '?'),
            flag(self.last_visible == '.'),
            logged(self.percents),
            real(self.short_words) * per_word,
        ];
        Sketch { dense, buckets: self.buckets }
    }
}

fn lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

/// Mixes a hash down to a bucket.
fn bucket_of(hash: u32) -> u16 {
    let mut mixed = hash ^ (hash >> 16);
    mixed = mixed.wrapping_mul(0x85eb_ca6b);
    mixed ^= mixed >> 13;
    mixed = mixed.wrapping_mul(0xc2b2_ae35);
    (mixed >> 16) as u16
}

#[expect(clippy::cast_precision_loss, reason = "counts of at most a few thousand, or a length nobody needs exactly")]
fn real(count: u32) -> f32 {
    count as f32
}

fn logged(count: u32) -> f32 {
    real(count).ln_1p()
}
