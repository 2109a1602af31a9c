// SPDX-License-Identifier: MIT
//
// An uncaught C++ exception: std::terminate, its message and SIGABRT.
#include <iostream>
#include <stdexcept>

static void throw_inner(int code)
{
    throw std::runtime_error("blosc2 block " + std::to_string(code) + " is broken");
}

extern "C" int throw_uncaught(int code) noexcept
{
    throw_inner(code);
    return 0;
}

extern "C" int throw_after_cerr(int code) noexcept
{
    std::cerr << "decoder: unexpected end of stream " << code << std::endl;
    throw_inner(code);
    return 0;
}
