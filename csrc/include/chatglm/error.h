// Errors of the library. Each message is a sentence that says what was wrong, where, and what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace chatglm {

// Base of every error that the library throws on purpose.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A file cannot be opened or read (Python: FileNotFoundError when it is absent, else OSError).
class FileError : public Error {
  public:
    FileError(const std::string& what, bool not_found) : Error(what), not_found_(not_found) {}
    bool not_found() const { return not_found_; }

  private:
    bool not_found_;
};

// The bytes of a file are not what they should be (Python: ValueError).
class FormatError : public Error {
  public:
    using Error::Error;
};

// An argument is out of its range (Python: ValueError).
class InvalidArgument : public Error {
  public:
    using Error::Error;
};

// The prompt, or the prompt with the reply asked for, does not fit in the context (Python: ValueError).
class ContextLengthError : public InvalidArgument {
  public:
    using InvalidArgument::InvalidArgument;
};

// Memory for weights or cache cannot be had (Python: MemoryError).
class OutOfMemory : public Error {
  public:
    using Error::Error;
};

// As many replies as may run and wait at once do so already: ask again later (Python: Busy).
class Busy : public Error {
  public:
    using Error::Error;
};

// The caller asked a computation to stop before its end; nothing else is wrong.
class Interrupted : public Error {
  public:
    Interrupted() : Error("The computation was interrupted.") {}
};

}  // namespace chatglm
