/* SPDX-License-Identifier: MIT
 *
 * A program of another class (static, 32-bit): the preload cannot enter it.
 */
#include <stdio.h>

int main(void)
{
    puts("hello from another class of program");
    return 0;
}
